"""How often a test set asks for items that training shows rarely: ``python examples/protocol.py DATA [DATA ...]``.

DATA are folders that ``recrl data`` wrote. A line a range of training counts: items, their share of the training
interactions and of the test targets, and test targets per training interaction. Under a protocol that holds out at
random the last column would be the same in every line.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recrl.baselines import BASELINES, recommend
from recrl.bench.script import refusals
from recrl.data import dataset as datasets
from recrl.data.dataset import Dataset
from recrl.data.frequency import training_counts
from recrl.errors import DataError, UserError
from recrl.evaluation.metrics import ndcg_at, pass_at
from recrl.parts import Choice, resolve

EDGES = (0, 1, 2, 3, 4, 5, 7, 10, 16, 31, 61)
RANKED = ("popularity", "item_knn", "text_knn", "hybrid_knn")
K = 10


def by_count(dataset: Dataset) -> list[str]:
    """Lines of the table."""
    train = training_counts(dataset.train, len(dataset.catalog))
    test = np.bincount(dataset.test.targets.values, minlength=len(train))
    lines = ["| count | items | share of training | share of test | test per training |", "|---|---|---|---|---|"]
    for low, high in zip(EDGES, (*EDGES[1:], None), strict=True):
        rows = (train >= low) & (train < (high or train.max(initial=0) + 1))
        if rows.any():
            name = str(low) if high == low + 1 else f"{low}+" if high is None else f"{low} to {high - 1}"
            seen, asked = int(train[rows].sum()), int(test[rows].sum())
            ratio = f"{asked / seen:.3f}" if seen else "-"
            lines.append(
                f"| {name} | {int(rows.sum()):,} | {seen / train.sum():.3f} | {asked / test.sum():.3f} | {ratio} |"
            )
    return lines


def ranked(dataset: Dataset) -> list[str]:
    """What counting reaches, items of the history left out."""
    lines = [f"| test | HR@{K} | NDCG@{K} |", "|---|---|---|"]
    history, targets = dataset.test.history, dataset.test.targets
    for name in RANKED:
        part, options = resolve(BASELINES, Choice(kind=name), where="baseline")
        scorer = part.run(dataset.train, dataset.catalog, options)
        wide = min(K + int(history.lengths.max(initial=0)), len(dataset.catalog))
        items = without(recommend(scorer, history, wide), history.padded(-1))
        lines.append(f"| {name} | {pass_at(items, targets, K).mean():.4f} | {ndcg_at(items, targets, K).mean():.4f} |")
    return lines


def without(items: NDArray[np.int32], history: NDArray[np.int64]) -> NDArray[np.int64]:
    """[U, K] the first of ranked items that the histories do not hold."""
    found = np.full((len(items), K), -1, np.int64)
    for row, (listed, seen) in enumerate(zip(items, history, strict=True)):
        new = listed[~np.isin(listed, seen)][:K]
        found[row, : len(new)] = new
    return found


def main(folders: list[Path]) -> None:
    if not folders:
        raise UserError("no folder", fix="python examples/protocol.py DATA, a folder that `recrl data prepare` wrote")
    found = [(folder, datasets.load(folder)) for folder in folders]
    for folder, dataset in found:
        if not len(dataset.train):
            raise DataError(str(folder), why="it has no training rows to count")
    for folder, dataset in found:
        print(f"## {folder.name}: {dataset.meta['format']}, {dataset.meta['split']}\n")
        print("\n".join([*by_count(dataset), "", *ranked(dataset), ""]))


if __name__ == "__main__":
    with refusals():
        main([Path(argument) for argument in sys.argv[1:]])
