"""The real one changes torch and Megatron-core before the latter is imported, and parses the command line."""

from __future__ import annotations

import sys

assert "megatron.core" not in sys.modules, "Megatron-core was imported before it could be adapted"
assert len(sys.argv) == 1, f"MindSpeed would trip over {sys.argv[1:]}"
