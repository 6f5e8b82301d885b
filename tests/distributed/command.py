"""A recrl command on every rank."""

from __future__ import annotations

import sys

from recrl.commands.main import main

main(sys.argv[1:])
