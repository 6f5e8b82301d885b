"""recrl commands on every rank, one after the other: COMMAND ... + COMMAND ..."""

from __future__ import annotations

import sys
from itertools import groupby

from recrl.backends.ranks import leave
from recrl.commands.main import main

for apart, words in groupby(sys.argv[1:], lambda word: word == "+"):
    if not apart:
        try:
            main(list(words))
        except SystemExit as end:
            if end.code:
                raise
leave()
