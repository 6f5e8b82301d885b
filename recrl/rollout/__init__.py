"""Prompts -> groups of legal responses. ``ROLLOUTS`` names the ways.

A rollout is ``run(prompts, options, context) -> RolloutGroups``; its options are ``RolloutOptions`` or more.
"""

ROLLOUTS = {
    "beam": "recrl.rollout.beam:BEAM",
    "sample": "recrl.rollout.sample:SAMPLE",
    "dynamic": "recrl.rollout.dynamic:DYNAMIC",
    "curriculum": "recrl.rollout.curriculum:CURRICULUM",
    "catalogue": "recrl.rollout.catalogue:CATALOGUE",
}
