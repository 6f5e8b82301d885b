"""Where RL's prompts come from, and what answers its responses. ``ENVIRONMENTS`` names the kinds.

An environment is ``run(config, world, options) -> Environment``; see ``base.py``.
"""

ENVIRONMENTS = {
    "log": "recrl.environments.log:LOG",
    "market": "recrl.environments.market:MARKET",
}
