"""Responses -> [B, G] rewards, one function a file. ``REWARDS`` names them.

A reward is ``run(groups: RolloutGroups, options) -> [B, G] float32``; its options carry a ``weight``.
"""

REWARDS = {
    "hit": "recrl.rewards.hit:HIT",
}
