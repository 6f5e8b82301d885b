"""What metrics need of a data set, computed once, and the metrics of lists."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recrl.config import RunConfig
from recrl.data.categories import category_codes
from recrl.data.dataset import Dataset, Examples
from recrl.data.frequency import cold_items, dataset_counts
from recrl.errors import DataError
from recrl.evaluation import diversity, metrics
from recrl.evaluation.metrics import PerUser
from recrl.evaluation.results import Metric, measured
from recrl.sids import codes as sid_codes
from recrl.sids.encoders.tfidf_svd import text_embedding

logger = logging.getLogger(__name__)
LIST_K = 10
"""The list that diversity is measured on."""


@dataclass(frozen=True)
class Measures:
    """See the module."""

    ks: tuple[int, ...]
    categories: NDArray[np.int32]
    embedding: NDArray[np.float32] | None
    """Of the items' text; None where they have none, and ILD is left out."""
    cold: NDArray[np.bool_]
    cold_denominator: Literal["cold", "all"]
    codes: NDArray[np.int32]
    seed: int
    bootstrap: int

    @classmethod
    def make(cls, dataset: Dataset, config: RunConfig) -> Measures:
        catalog = dataset.catalog
        counts = dataset_counts(dataset)
        return cls(
            config.eval.k,
            category_codes(catalog.categories),
            _text_embedding(dataset, config.run.seed),
            cold_items(counts, catalog.item_ids, fraction=config.eval.cold_fraction, seed=config.run.seed),
            config.eval.cold_denominator,
            sid_codes.load(config.sid.path).codes,
            config.run.seed,
            config.eval.bootstrap,
        )

    @property
    def level_scores(self) -> tuple[float, ...]:
        """Credit of a partial hit: 1, 10, 100 for one, two, three equal leading codes (papers.md D-2 times 100)."""
        return tuple(10.0**level for level in range(self.codes.shape[1]))

    @property
    def list_k(self) -> int:
        return min(LIST_K, max(self.ks))

    def per_user(self, items: NDArray[Any], examples: Examples) -> dict[str, PerUser]:
        """[U] numbers of every metric that is a mean over users; ``items`` is [U, K]."""
        targets = examples.targets
        single = bool((targets.lengths == 1).all())
        values: dict[str, PerUser] = {}
        for k in self.ks:
            values[f"{'hr' if single else 'pass'}@{k}"] = metrics.pass_at(items, targets, k)
            if not single:
                values[f"recall@{k}"] = metrics.recall_at(items, targets, k)
                values[f"position1_pass@{k}"] = metrics.position1_pass_at(items, targets, k)
                values[f"partial_hit@{k}"] = metrics.partial_hit(items, targets, self.codes, k, self.level_scores)
            values[f"ndcg@{k}"] = metrics.ndcg_at(items, targets, k)
        k = self.list_k
        values[f"cold_recall@{k}"] = diversity.cold_recall_at(
            items, targets, self.cold, k, denominator=self.cold_denominator
        )
        if self.embedding is not None:
            values[f"ild@{k}"] = diversity.ild_at(items, self.embedding, k)
        values[f"legal_ratio@{k}"] = metrics.legal_ratio(items, k)
        return values

    def summary(self, items: NDArray[Any], values: dict[str, PerUser]) -> dict[str, Metric]:
        """Means with intervals, and what is a property of all lists together."""
        k = self.list_k
        if self.bootstrap:
            found = measured(values, seed=self.seed, num_resamples=self.bootstrap)
        else:
            means = {name: float(np.nanmean(value)) for name, value in values.items() if not np.isnan(value).all()}
            found = {name: Metric(value=mean) for name, mean in means.items()}
        if (self.categories >= 0).any():
            entropy = diversity.entropy_at(items, self.categories, k)
            if not np.isnan(entropy.pooled_nats):
                found[f"entropy_bits@{k}"] = Metric(value=entropy.pooled_bits)
                found[f"entropy_nats@{k}"] = Metric(value=entropy.pooled_nats)
        found[f"coverage@{k}"] = Metric(value=diversity.coverage_at(items, len(self.categories), k))
        return found


def _text_embedding(dataset: Dataset, seed: int) -> NDArray[np.float32] | None:
    try:
        return text_embedding(dataset.catalog, dataset.train, seed)
    except DataError as error:
        logger.warning("no ILD: %s", error.found)
        return None
