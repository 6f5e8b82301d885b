"""SFT on ranks that measure differently: the first finds bfloat16 fast, the others slow. CONFIG; prints each choice."""

from __future__ import annotations

import sys
from pathlib import Path

from recrl.backends.ranks import leave
from recrl.config import load
from recrl.device import matmul_speed
from recrl.processes import own_rank
from recrl.store.run_folder import stage_folder
from recrl.training.sft import Sft

matmul_speed.bfloat16_time = lambda _: 9.0 if own_rank() else 0.25  # type: ignore[assignment]
config = load(Path(sys.argv[1]))
sft = Sft(config, stage_folder(config.folder / "sft"))
chosen = sft.ranks.all_gather(sft.policy.dtype)
if sft.ranks.is_first:
    print(f"chosen: {chosen}")
leave()
