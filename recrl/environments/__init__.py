"""Where RL's prompts come from, and what answers its responses. ``ENVIRONMENTS`` names the kinds.

An environment is ``run(config, world, model_config, options) -> Environment``, with the Hugging Face config of the
model that RL starts from; see ``base.py``.
"""

ENVIRONMENTS = {
    "log": "recrl.environments.log:LOG",
    "market": "recrl.environments.market:MARKET",
}
