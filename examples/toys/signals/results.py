"""Write SIGNALS.md from what run.sh left below runs/."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

SIGNALS = {
    "zscore": "z-scores over the beam (GRPO)",
    "likelihood": "log-likelihood of the hit (`sign`, hits alone)",
    "recrl": "`listwise`, temperature 8 (recipe `recrl`)",
    "alone": "recipe `recrl` without a memory (temperature 1)",
}
SEEDS = (0, 1, 2)


def lines(name: str) -> list[dict[str, float]]:
    text = Path(f"runs/signals-{name}/rl/metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def validations(name: str) -> dict[int, float]:
    return {int(line["step"]): line["valid/ndcg@10"] for line in lines(name) if "valid/ndcg@10" in line}


def table() -> list[str]:
    steps = sorted(validations("recrl-0"))
    rows = [f"| validation NDCG@10 at step | {' | '.join(map(str, steps))} |", "|---" * (len(steps) + 1) + "|"]
    for signal, words in SIGNALS.items():
        found = [validations(f"{signal}-{seed}") for seed in SEEDS]
        cells = [" ".join(f"{one[step]:.4f}" for one in found) for step in steps]
        rows.append(f"| {words} | {' | '.join(cells)} |")
    return rows


def hits(targets: str) -> float:
    return mean(line["reward/hit_ratio"] for line in lines(targets) if "reward/hit_ratio" in line)


INTRODUCTION = """# Three signals on the same rollouts

Written by `run.sh`. Amazon Toys, the SFT of `../toys.toml` with a memory of weight 8, 50 beams a prompt, reward 1 for
the target, the last items of training sequences as targets, 3 passes over a rollout. 2,000 validation users; three
seeds in every cell, which draw prompts and their order.
"""

if __name__ == "__main__":
    print(INTRODUCTION)
    print("\n".join(table()))
    print(
        f"\nOf an SFT with `sft.held_out = 0.3`, without the memory, 50 beams hold {hits('last'):.1%} of the last "
        f"targets of training sequences, of which it has seen seven in ten, and {hits('held_out'):.1%} of the others."
    )
