"""Responses -> [B, G] rewards, one function a file. ``REWARDS`` names them.

A reward is ``run(groups: RolloutGroups, options, context: RewardContext) -> [B, G] float32``; its options carry a
``weight``. NaN says that a response can't be scored; a response that does not exist earns 0.
"""

REWARDS = {
    "hit": "recrl.rewards.hit:HIT",
    "rank": "recrl.rewards.rank:RANK",
    "sid_level": "recrl.rewards.sid_level:SID_LEVEL",
    "singer": "recrl.rewards.singer:SINGER",
    "first_sid_hit": "recrl.rewards.first_sid_hit:FIRST_SID_HIT",
    "partial_hit": "recrl.rewards.partial_hit:PARTIAL_HIT",
    "slate_ndcg": "recrl.rewards.slate_ndcg:SLATE_NDCG",
    "engagement": "recrl.rewards.engagement:ENGAGEMENT",
    "valid_distinct": "recrl.rewards.valid_distinct:VALID_DISTINCT",
    "click": "recrl.rewards.click:CLICK",
    "duration": "recrl.rewards.duration:DURATION",
    "comment": "recrl.rewards.comment:COMMENT",
    "collaborative": "recrl.rewards.collaborative:COLLABORATIVE",
}
