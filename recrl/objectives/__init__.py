"""Losses on the log-probabilities of response tokens, one function a file. ``OBJECTIVES`` names them."""

OBJECTIVES = {
    "grpo": "recrl.objectives.grpo:GRPO",
    "gspo": "recrl.objectives.gspo:GSPO",
    "gbpo": "recrl.objectives.gbpo:GBPO",
    "ecpo": "recrl.objectives.ecpo:ECPO",
    "bapo": "recrl.objectives.bapo:BAPO",
    "sage": "recrl.objectives.sage:SAGE",
    "s_dpo": "recrl.objectives.s_dpo:S_DPO",
}
