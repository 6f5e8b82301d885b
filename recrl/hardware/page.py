"""The page of hardware: profiles with their sources, plans for three models, and what was checked of them.

python -m recrl.hardware.page [FILE]    # default: docs/hardware.md; --check fails where the file is out of date
"""

from __future__ import annotations

import json
from pathlib import Path

from recrl.generated_page import write_page
from recrl.hardware.flops import verl_training_flops
from recrl.hardware.model_shapes import SHAPES
from recrl.hardware.plan_text import HEAD, markdown, parts, row, summary
from recrl.hardware.planner import Job, plan
from recrl.hardware.profiles import FIGURES, Profile, known_devices, load_profile
from recrl.hardware.step_load import step_load

MEMORY = Path(__file__).parents[2] / "benchmarks" / "memory_plan.json"
"""What ``benchmarks/memory_plan.py --write`` left."""
MODELS = ("Qwen3-1.7B", "Qwen3-8B", "Qwen3-14B")
"""Of ReCast's paper."""
MACHINES = ("ascend-910b3-64", "h100-64")
RECIPE, PROMPT_TOKENS, GROUP, PROMPTS = "recast", 3300, 32, 64
TABLE_4 = {"OpenOneRec-RL": (6.93e6, 211.04, 0.0763, 64 * 32), "ReCast": (0.47e6, 12.71, 0.0872, 64 * 2)}
"""ReCast, Table 4: tokens and seconds of the actor update of Qwen3-8B on 64 NPUs, its MFU; and the rows of a step."""
PEAKS = {"verl's constant for every 910B, 354": 354.0, "910B3, 313": 313.0}

OPENING = f"""\
# Hardware

Written by `python -m recrl.hardware.page` from the profiles and the planner; the suite fails where this page is out of
date. **Nothing here ran on the devices that it speaks of.** Figures of devices are their makers' or, where their source
says so, not official; times follow from them by an assumed share of the peak. What was checked stands at the end.

    recrl profile list                   # every profile
    recrl profile show NAME              # one with the source of every figure
    recrl profile detect                 # which one this machine is
    recrl profile size --model Qwen3-8B --recipe {RECIPE} --profile {MACHINES[0]} --prompt-tokens {PROMPT_TOKENS}
    recrl profile select ...             # the best layout alone, and what to set for it

A profile of your own is a TOML file, named by its path. It may vary a known one:

    base = "h100"
    name = "ours"
    devices_per_node = 4
    nodes = 2
    inter_node_gbps = 25

    [sources]
    devices_per_node = "our racks"
    inter_node_gbps = "measured with ib_write_bw"
"""

PROFILES = """\
## Profiles

Of one device. TFLOPS are those of dense products; GB/s between devices are one direction of one device. `NAME-64` is
sixty-four of it, in nodes of the size in the last column, and so with any number that fills a part of a node or whole
nodes. The profile `cpu` is measured where it stands.
"""

PLANS = f"""\
## Plans

`{RECIPE}` with {PROMPTS} prompts of {PROMPT_TOKENS:,} tokens a step, G = {GROUP}. Every legal split is tried: tensor
parallel (TP) x data parallel (DP) x prompts of a micro-batch. A degree of TP divides the devices of a node, query
heads, key heads and the MLP's width; the vocabulary is filled up to a multiple. DP is what is left. The prompts of an
optimiser step are dealt out over the copies, and copies beyond them stand idle. A phase takes the time of its products,
of what passes the device's memory, and of what passes between devices, one after the other.

What a recipe asks for is found out by running its own signal on a group with one hit, and by asking its objective
whether it weighs a reference. The step is one in which every group is trained on; groups that the signal leaves out
make it cheaper. A second rollout (`curriculum`) is not counted.
"""

CHECKED = """\
## What was checked

### FLOPs

On tiny Qwen3, Qwen2 and Llama models the formula agrees with `torch.utils.flop_counter` within 2 %, for plain rows and
for the update on a shared prompt (`tests/hardware/test_flops.py`). The meter behind `perf/mfu/actor` uses it too.

ReCast's Table 4 prints tokens, seconds and MFU of the actor update of Qwen3-8B on 64 NPUs. In rows of equal length, its
tokens and seconds give these MFU:
"""

TOKENS = """\
Both ways of counting give both printed MFU within 5 %, each with its own peak: verl's (the embedding's lookup counts as
a product) with verl's constant, and without the lookup the peak of a 910B3. The table can't tell them apart.

Two rows of 32 leave a sixteenth of the tokens; the table prints 14.7 times fewer. Rows of unequal length can do that,
and nothing in the paper says which. That peer copies the prompt into every row. This engine computes it once, so its
update has other tokens: see the plans.
"""

MEMORY_TEXT = """\
### Memory

What autograd saves was counted tensor by tensor, in float32 and bfloat16, with fused and with plain elementwise ops:
the formula is within 2 % (`tests/hardware/test_memory.py`). Whole runs on a CPU, RL and SFT, two optimiser steps in a
fresh process each (`benchmarks/memory_plan.py`): the ratio is of what was predicted to the rise of the resident set's
peak, with glibc told to give back at once what is freed. By default it keeps some of it between pieces that are in use:
the last column. On accelerators the share of memory taken as usable has to cover what their allocators keep.
"""

NOT_CHECKED = """\
### Not checked

Seconds and MFU on any device of these profiles; memory on accelerators, and with tensor parallelism, which follows
from the same formula with the share of heads, width and vocabulary that a device has.
"""


def page() -> str:
    """The whole page."""
    devices = [profile for profile in map(load_profile, known_devices()) if not profile.measured]
    blocks = [OPENING, PROFILES, _profiles(devices), "### Sources", *map(_sources, devices), PLANS]
    blocks += [_plan(model, machine) for model in MODELS for machine in MACHINES]
    blocks += [CHECKED, _table_4(), TOKENS, MEMORY_TEXT, _memory(), NOT_CHECKED]
    return "\n\n".join(block.strip() for block in blocks) + "\n"


def _profiles(devices: list[Profile]) -> str:
    head = (
        "profile",
        "torch calls it",
        "GiB",
        "bf16 TFLOPS",
        "fp32 TFLOPS",
        "memory GB/s",
        "in node GB/s",
        "out GB/s",
        "a node",
    )
    rows = []
    for profile in devices:
        figures = (f"{getattr(profile, name):g}" for name in FIGURES)
        rows.append((f"`{profile.name}`", ", ".join(profile.reported_as), *figures, str(profile.node_devices)))
    return markdown(head, rows)


def _sources(profile: Profile) -> str:
    return f"`{profile.name}`\n\n" + "\n".join(f"- {name}: {source}" for name, source in profile.sources.items())


def _plan(model: str, machine: str) -> str:
    load = step_load(RECIPE, group=GROUP, prompts=PROMPTS)
    found = plan(Job(SHAPES[model], load, PROMPT_TOKENS, response_tokens=3), load_profile(machine))
    text = "\n".join(f"- {line}" for line in summary(found))
    table = markdown(HEAD, [row(layout) for layout in found.layouts])
    return f"### {model} on {machine}\n\n{text}\n\n{table}\n\nThe first by part, GiB: {parts(found.layouts[0])}."


def _table_4() -> str:
    """MFU by our count of the table's own tokens and seconds."""
    head = ("row", "printed", *(f"{way}, {peak}" for peak in PEAKS for way in ("with lookup", "without")))
    rows = []
    for name, (tokens, seconds, printed, count) in TABLE_4.items():
        length = TABLE_4["OpenOneRec-RL"][0] / TABLE_4["OpenOneRec-RL"][3]
        cells = []
        for tflops in PEAKS.values():
            for lookup in (True, False):
                flops = tokens / length * verl_training_flops(SHAPES["Qwen3-8B"], [length], lookup=lookup)
                mfu = flops / (seconds * 64 * tflops * 1e12)
                cells.append(f"{mfu:.4f} ({mfu / printed - 1:+.1%})")
        rows.append((f"{name}, {count:,} rows", f"{printed:.4f}", *cells))
    return markdown(head, rows)


def _memory() -> str:
    head, *rows = json.loads(MEMORY.read_text(encoding="utf-8"))
    return markdown(head, rows)


if __name__ == "__main__":
    write_page(__doc__, page, "docs/hardware.md", "recrl.hardware.page")
