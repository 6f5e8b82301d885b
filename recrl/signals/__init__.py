"""Groups and rewards -> advantages and active rows, one function a file. ``SIGNALS`` names them.

A signal is ``run(groups, rewards [B, G, M], weights [M], options, state) -> Signal``; ``state`` is what it returned at
the step before, empty at the first.
"""

SIGNALS = {
    "group_zscore": "recrl.signals.group_zscore:GROUP_ZSCORE",
}
