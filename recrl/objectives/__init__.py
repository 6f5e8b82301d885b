"""Losses on the log-probabilities of response tokens, one function a file. ``OBJECTIVES`` names them."""

OBJECTIVES = {
    "grpo": "recrl.objectives.grpo:GRPO",
    "gspo": "recrl.objectives.gspo:GSPO",
}
