"""Measurements of the engine, one file each. ``MEASUREMENTS`` names them in the order of the page.

Each compares two ways of doing the same work, side by side in one process, and refuses to report where the work is not
the same. A newcomer writes a file with a ``Measurement`` and adds one line.
"""

MEASUREMENTS = {
    "grpo": "recrl.bench.grpo:GRPO",
    "beam": "recrl.bench.beam:BEAM",
    "update": "recrl.bench.update:UPDATE",
    "growth": "recrl.bench.growth:GROWTH",
    "utilisation": "recrl.bench.utilisation:UTILISATION",
}
