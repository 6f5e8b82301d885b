"""Groups and rewards -> advantages and active rows, one function a file. ``SIGNALS`` names them.

A signal is ``run(groups, rewards [B, G, M], weights [M], options, context) -> Signal``; the context holds what it
returned as its state at the step before. Letters: R the reward of a response, A its advantage.
"""

SIGNALS = {
    "group_zscore": "recrl.signals.group_zscore:GROUP_ZSCORE",
    "decoupled": "recrl.signals.decoupled:DECOUPLED",
    "recast": "recrl.signals.recast:RECAST",
    "repair_only": "recrl.signals.repair_only:REPAIR_ONLY",
    "listwise": "recrl.signals.listwise:LISTWISE",
    "sign": "recrl.signals.sign:SIGN",
}
