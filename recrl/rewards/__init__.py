"""Responses -> [B, G] rewards, one function a file. ``REWARDS`` names them.

A reward is ``run(groups: RolloutGroups, options, context: RewardContext) -> [B, G] float32``; its options carry a
``weight``. NaN says that a response can't be scored.
"""

REWARDS = {
    "hit": "recrl.rewards.hit:HIT",
}
