"""Prompts -> groups of legal responses. ``ROLLOUTS`` names the ways."""

ROLLOUTS = {
    "beam": "recrl.rollout.beam:BEAM",
    "sample": "recrl.rollout.sample:SAMPLE",
}
