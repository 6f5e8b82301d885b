"""What rewards and signals know of a run's data."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from recrl.baselines import BASELINES, Scorer
from recrl.data.categories import category_codes
from recrl.data.frequency import training_counts
from recrl.data.ragged import Ragged
from recrl.groups.prompts import PromptBatch
from recrl.parts import Choice, resolve
from recrl.rewards.base import RewardContext
from recrl.run_data import RunData
from recrl.sids.encoders import unit_rows
from recrl.sids.encoders.tfidf_svd import text_embedding


def reward_context(world: RunData) -> RewardContext:
    """Categories, engagement and scorers of the training data."""
    train, items = world.dataset.train, len(world.dataset.catalog)
    category = category_codes(world.dataset.catalog.categories)
    if (category < 0).all():
        category = world.index.codes[:, 0]
    taken = np.log1p(training_counts(train, items).astype(np.float64))
    engagement = taken / max(taken.max(initial=0.0), 1e-9)

    @cache
    def fitted(kind: str, options: tuple[tuple[str, object], ...]) -> Scorer:
        part, checked = resolve(BASELINES, Choice(kind=kind, **dict(options)), where="rl.rewards.scorer")
        scorer: Scorer = part.run(train, world.dataset.catalog, checked)
        return scorer

    def scorer(choice: Choice) -> Callable[[PromptBatch], Tensor]:
        made = fitted(choice.kind, tuple(sorted(choice.given.items())))

        def scores(prompts: PromptBatch) -> Tensor:
            histories = Ragged.from_lists([row[row >= 0].tolist() for row in prompts.history.cpu()])
            own = None if prompts.sequence is None else train.select_some(prompts.sequence.cpu().numpy())
            return torch.from_numpy(np.ascontiguousarray(made.scores(histories, own))).to(prompts.history.device)

        return scores

    return RewardContext(
        torch.from_numpy(category.astype(np.int64)).to(world.device),
        torch.from_numpy(engagement.astype(np.float32)).to(world.device),
        torch.from_numpy(training_counts(train, items)).to(world.device),
        scorer,
    )


def text_vectors(world: RunData, seed: int) -> Callable[[], Tensor]:
    """Gives [items, D] unit vectors of the items' text, made at the first call.

    That call raises a ``DataError`` where no item has text.
    """

    @cache
    def vectors() -> Tensor:
        found = text_embedding(world.dataset.catalog, world.dataset.train, seed)
        return torch.from_numpy(unit_rows(found)).to(world.device)

    return vectors
