"""Places of the active rows in the packed layout, by two Triton kernels; ``reference.py`` is the specification.

Compaction without atomics: count every prompt's rows, add the counts up, then let every prompt write where its own rows
begin. The order is therefore the same on every run. The host reads both totals once, to size the results.

Letters: B prompts, G responses, K prompts with an active row, N active rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from recrl.kernels.launches import Launch


@triton.jit
def _count(active: tl.tensor, rows: tl.tensor, group: tl.tensor, lanes: tl.constexpr) -> None:
    """A program counts one prompt's active rows."""
    prompt = tl.program_id(0)
    begin = prompt.to(tl.int64) * group
    total = tl.zeros((lanes,), tl.int64)
    for first in range(0, group, lanes):
        place = first + tl.arange(0, lanes)
        total += tl.load(active + begin + place, mask=place < group, other=0).to(tl.int64)
    tl.store(rows + prompt, tl.sum(total, 0))


@triton.jit
def _write(
    active: tl.tensor,
    rows: tl.tensor,
    rows_until: tl.tensor,
    kept_until: tl.tensor,
    kept: tl.tensor,
    prompt_of: tl.tensor,
    slot: tl.tensor,
    response: tl.tensor,
    group: tl.tensor,
    lanes: tl.constexpr,
) -> None:
    """A program writes one prompt's rows; ``*_until`` are running totals that include the prompt itself."""
    prompt = tl.program_id(0)
    number = tl.load(rows + prompt)
    if number > 0:
        begin = prompt.to(tl.int64) * group
        place_of_prompt = tl.load(kept_until + prompt) - 1
        tl.store(kept + place_of_prompt, prompt.to(tl.int64))
        first_row = tl.load(rows_until + prompt) - number
        before = tl.zeros((), tl.int64)
        for first in range(0, group, lanes):
            place = first + tl.arange(0, lanes)
            chosen = tl.load(active + begin + place, mask=place < group, other=0).to(tl.int64)
            rank = before + tl.cumsum(chosen, 0) - chosen
            tl.store(prompt_of + first_row + rank, place_of_prompt, mask=chosen > 0)
            tl.store(slot + first_row + rank, rank, mask=chosen > 0)
            tl.store(response + first_row + rank, place.to(tl.int64), mask=chosen > 0)
            before += tl.sum(chosen, 0)


_LANES = {"lanes": 64}
_COUNT = Launch(
    "pack_active count", _count, {"active": "*i1", "rows": "*i64", "group": "i32"}, _LANES, num_warps=1, num_stages=1
)
_WRITTEN = ("rows", "rows_until", "kept_until", "kept", "prompt_of", "slot", "response")
_WRITE = Launch(
    "pack_active write",
    _write,
    {"active": "*i1", **dict.fromkeys(_WRITTEN, "*i64"), "group": "i32"},
    _LANES,
    num_warps=1,
    num_stages=1,
)
LAUNCHES = (_COUNT, _WRITE)


def pack_active(active: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As ``reference.pack_active``: [B, G] bool -> [K] prompts, [N] prompt, slot and response of every active row."""
    prompts, group = active.shape
    if not active.numel():
        none = active.new_empty(0, dtype=torch.int64)
        return none, none.clone(), none.clone(), none.clone()
    active = active.contiguous()
    rows = active.new_empty(prompts, dtype=torch.int64)
    _COUNT.run((prompts,), active, rows, group)
    rows_until, kept_until = rows.cumsum(0), (rows > 0).cumsum(0)
    num_rows, num_kept = torch.stack([rows_until[-1], kept_until[-1]]).tolist()
    kept = rows.new_empty(num_kept)
    prompt_of, slot, response = (rows.new_empty(num_rows) for _ in range(3))
    _WRITE.run((prompts,), active, rows, rows_until, kept_until, kept, prompt_of, slot, response, group)
    return kept, prompt_of, slot, response
