"""Losses on the log-probabilities of response tokens, one function a file. ``OBJECTIVES`` names them.

J is maximised, its negative is the loss; L is a loss. ``kl_beta`` times a k3 estimate of KL(policy || reference) is
subtracted from J at every token (papers.md B-4). Letters: A the advantage of a row, T its tokens, pi the policy's
probability, pi_old that under the policy of the rollout, logp and logp_old their logarithms, r = pi / pi_old the ratio
of a token, sg a stopped gradient.
"""

OBJECTIVES = {
    "grpo": "recrl.objectives.grpo:GRPO",
    "gspo": "recrl.objectives.gspo:GSPO",
    "gbpo": "recrl.objectives.gbpo:GBPO",
    "ecpo": "recrl.objectives.ecpo:ECPO",
    "bapo": "recrl.objectives.bapo:BAPO",
    "sage": "recrl.objectives.sage:SAGE",
    "s_dpo": "recrl.objectives.s_dpo:S_DPO",
}
