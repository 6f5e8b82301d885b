"""Trained models, baselines and the known optimum on one split, under one protocol.

Full ranking over the catalogue by constrained beam search, nothing of the history removed, everything by item id and
never by SID string (papers.md, section F). ``eval.exclude_history`` adds lists without the items of the history.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from recrl import config as configs
from recrl.backends.decoder_policy import DecoderPolicy
from recrl.baselines import BASELINES, COMPARED, pools, recommend
from recrl.config import RunConfig
from recrl.data import dataset as datasets
from recrl.data.categories import category_codes
from recrl.data.dataset import Dataset, Examples
from recrl.data.frequency import cold_items, dataset_counts
from recrl.data.optimum import optimum
from recrl.errors import DataError, UserError
from recrl.evaluation import diversity, metrics
from recrl.evaluation.metrics import PerUser
from recrl.evaluation.results import ALONE, NEW, EvaluationResult, Metric, forget, measured, save_result, table_order
from recrl.parts import Choice, resolve
from recrl.processes import own_rank, started_together
from recrl.prompts.writer import LABELS, Prompts
from recrl.ranking.lists import Lists, named_alike
from recrl.ranking.rank import PromptTable, Ranking, length_batches
from recrl.run_data import RunData, load_run_data
from recrl.sids import codes as sid_codes
from recrl.sids.encoders.tfidf_svd import text_embedding
from recrl.store import checkpoint

logger = logging.getLogger(__name__)
STAGES = ("sft", "rl")
LIST_K = 10
"""The list that diversity is measured on."""


@dataclass(frozen=True)
class Subject:
    """A model to evaluate: what the table calls it, its Hugging Face folder, and the config of its run."""

    name: str
    model: Path
    config: RunConfig


@dataclass(frozen=True)
class Protocol:
    """What every recommender is measured on.

    Attributes:
        name: of the split, and of the task where the split holds several.
        examples: the prompts and targets.
        rows: [U] which rows of the split they are.
    """

    name: str
    examples: Examples
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class Measures:
    """What metrics need of a data set, computed once."""

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


def subjects(path: Path) -> list[Subject]:
    """The models that a path names: a run (its best SFT and RL), a stage (its best), or one checkpoint.

    Raises:
        UserError: it names none.
    """
    if (path / "model" / "config.json").is_file():
        stage = path.resolve().parent.parent
        return [_subject(stage, checkpoint.read(path), f"{stage.name}-{path.resolve().name}")]
    if (path / "checkpoints").is_dir():
        return [_subject(path, checkpoint.best(path), path.name)]
    found = [stage for stage in STAGES if (path / stage / "checkpoints").is_dir()]
    if not found:
        raise UserError(
            f"nothing to evaluate at {path}",
            why="it is no run, stage or checkpoint folder",
            fix="name a folder such as runs/NAME, runs/NAME/sft or runs/NAME/rl/checkpoints/step-000100",
        )
    return [_subject(path / stage, checkpoint.best(path / stage), stage) for stage in found]


def _subject(stage: Path, found: checkpoint.Checkpoint, name: str) -> Subject:
    return Subject(name, found.model, as_started(configs.load(stage / "config.toml")))


def as_started(config: RunConfig) -> RunConfig:
    """The config on the processes that are here: those that training shared one model out over need not be."""
    processes = started_together()
    if processes > 1 and processes % config.backend.tensor_parallel == 0:
        return config
    backend = config.backend.model_copy(update={"engine": "torch", "tensor_parallel": 1})
    return config.model_copy(update={"backend": backend})


def protocols(dataset: Dataset, split: str) -> list[Protocol]:
    """One for plain splits; one a task where the split holds several."""
    examples = dataset.split(split)
    if not len(examples):
        raise UserError(f"the split {split} is empty", why="there is nothing to evaluate", fix="choose another split")
    tasks = sorted(set(examples.tasks))
    if len(tasks) == 1:
        return [Protocol(split, examples, np.arange(len(examples)))]
    of = np.array(examples.tasks)
    rows = {task: np.flatnonzero(of == task) for task in tasks}
    return [Protocol(f"{split}.{task}", examples.select(rows[task]), rows[task]) for task in tasks]


def evaluate_model(subject: Subject, split: str, folder: Path) -> list[EvaluationResult]:
    """Evaluate one model on every task of a split and write the results below ``folder``.

    A model with a memory is measured once more without it, in rows named ``NAME-alone``. What bears the plain name is
    written last: where it is, the others are. Earlier results of the same name and task give way first.
    """
    world, policy = load_run_data(subject.config, subject.model)
    measures = Measures.make(world.dataset, subject.config)
    width, lists = subject.config.eval.beam_width, Lists.of(subject.config)
    results: list[EvaluationResult] = []
    for protocol in protocols(world.dataset, split):
        begin = time.perf_counter()
        forget(folder, subject.name, protocol.name)
        about: dict[str, Any] = {"kind": "model", "checkpoint": str(subject.model.parent), **lists.about(width)}
        if (protocol.examples.labels >= 0).all():
            auc = metrics.auc(label_scores(policy, world, protocol.examples), protocol.examples.labels)
            result = _result(subject.name, protocol, begin, {"auc": Metric(value=auc)}, about)
            save_result(result, folder, examples=protocol.rows)
            results.append(result)
            continue
        prompts = lists.prompts(world.writer, protocol.examples)
        protocol = replace(protocol, examples=named_alike(protocol.examples, world.trie))
        bound = _pool_recall(prompts, protocol)
        exclude = subject.config.eval.exclude_history
        asked = {subject.name: prompts}
        if prompts.recalled is not None:
            asked[subject.name + ALONE] = replace(prompts, recalled=None)
        place = len(results)
        for name, ways in reversed(asked.items()):
            ranking = lists.rank(policy, world.trie, ways, width, width, world.ranks)
            found = _ranked(name, ranking, protocol, measures, begin, about, folder, exclude=exclude, bound=bound)
            results[place:place] = found
            begin = time.perf_counter()
    return results


def _pool_recall(prompts: Prompts, protocol: Protocol) -> dict[str, PerUser]:
    """Share of every user's targets that are among the candidates: what no list can do better than; {} without any."""
    if prompts.pool is None or not prompts.pool.lengths.any():
        return {}
    values = pools.recall(prompts.pool, protocol.examples.targets)
    logger.info("%s: %.1f %% of the targets are among the candidates", protocol.name, 100 * np.nanmean(values))
    return {"pool_recall": values}


def _ranked(
    name: str,
    ranking: Ranking,
    protocol: Protocol,
    measures: Measures,
    begin: float,
    about: dict[str, Any],
    folder: Path,
    *,
    exclude: bool,
    bound: dict[str, PerUser],
) -> list[EvaluationResult]:
    """Measure and save a recommender's lists; with ``exclude`` also those without the items of the history.

    Args:
        bound: [U] what limits every list, reported beside the metrics.
    """
    lists = {name: ranking}
    if exclude:
        lists[name + NEW] = ranking.without(protocol.examples.history)
    results: list[EvaluationResult] = []
    for called, found in reversed(lists.items()):
        items = found.first(max(measures.ks)).items
        values = measures.per_user(items, protocol.examples) | bound
        result = _result(called, protocol, begin, measures.summary(items, values), about)
        save_result(result, folder, per_user=values, examples=protocol.rows)
        results.insert(0, result)
    return results


def _result(
    name: str, protocol: Protocol, begin: float, found: dict[str, Metric], about: dict[str, Any]
) -> EvaluationResult:
    return EvaluationResult(
        name=name,
        split=protocol.name,
        num_examples=len(protocol.examples),
        seconds=round(time.perf_counter() - begin, 3),
        metrics=found,
        **about,
    )


def evaluate_baselines(dataset: Dataset, config: RunConfig, split: str, folder: Path) -> list[EvaluationResult]:
    """Popularity, item-kNN and, where it is known, the optimum: on the same examples, with the same metrics."""
    measures = Measures.make(dataset, config)
    results: list[EvaluationResult] = []
    for protocol in protocols(dataset, split):
        if (protocol.examples.labels >= 0).any() or not len(dataset.train):
            continue
        for name in COMPARED:
            begin = time.perf_counter()
            part, options = resolve(BASELINES, Choice(kind=name), where="baseline")
            scorer = part.run(dataset.train, dataset.catalog, options)
            exclude = config.eval.exclude_history
            longest = int(protocol.examples.history.lengths.max(initial=0)) if exclude else 0
            wide = min(max(measures.ks) + longest, len(dataset.catalog))
            items = recommend(scorer, protocol.examples.history, wide).astype(np.int64)
            ranking = Ranking(items, np.zeros(items.shape, np.float32))
            about = {"kind": "baseline"}
            results += _ranked(name, ranking, protocol, measures, begin, about, folder, exclude=exclude, bound={})
        if dataset.meta.get("format") == "synthetic" and dataset.meta.get("split") == "leave-one-out":
            results.append(_optimum(dataset, measures, protocol, folder))
    return results


def _optimum(dataset: Dataset, measures: Measures, protocol: Protocol, folder: Path) -> EvaluationResult:
    begin = time.perf_counter()
    expected = optimum(dataset.meta, protocol.examples, measures.ks)["expected"]
    found = {name: Metric(value=value) for name, value in expected.items()}
    result = _result("optimum", protocol, begin, found, {"kind": "optimum"})
    save_result(result, folder)
    return result


@torch.no_grad()
def label_scores(policy: DecoderPolicy, world: RunData, examples: Examples) -> NDArray[np.float64]:
    """[U]: P(yes) / (P(yes) + P(no)) from the first token of either word (papers.md E-2, label prediction)."""
    prompts = world.writer.prompts(examples)
    words = torch.tensor([world.writer.label_token(label) for label in range(len(LABELS))], device=policy.device)
    scores = np.empty(len(prompts))
    table = PromptTable.without_targets(prompts)
    for rows in length_batches(prompts, policy.token_budget, 0):
        _, hidden = policy.prefill(table.batch(rows, policy.device))
        logits = policy.candidate_logits(hidden, words.expand(len(rows), 1, -1))
        scores[rows] = logits.softmax(-1)[:, 0, 1].double().cpu().numpy()
    return scores


def evaluate(paths: list[Path], split: str, say: Callable[[str], None]) -> tuple[list[EvaluationResult], Path]:
    """Evaluate everything that the paths name, with the baselines of the first one's data.

    Returns:
        The results, baselines first and a known optimum last, and the folder that holds them.

    Raises:
        UserError: a path names nothing, or the paths use different data.
    """
    found = [subject for path in paths for subject in subjects(path)]
    if len(paths) > 1:
        names = [subject.name for subject in found]
        found = [
            Subject(f"{subject.config.run.name}-{subject.name}", subject.model, subject.config)
            if names.count(subject.name) > 1
            else subject
            for subject in found
        ]
    first = found[0].config
    for subject in found[1:]:
        if subject.config.data.path.resolve() != first.data.path.resolve():
            raise UserError(
                f"{subject.model.parent} was trained on {subject.config.data.path}",
                why=f"the others were on {first.data.path}, and a table compares like with like",
                fix="evaluate them in separate calls",
            )
    called = [subject.name for subject in found]
    if doubles := sorted({name for name in called if called.count(name) > 1}):
        raise UserError(
            f"two models would be called {doubles[0]}",
            why="results are kept by run.name and stage, and one would replace the other's",
            fix="evaluate them in separate calls",
        )
    folder = first.folder / "evaluation"
    results = []
    for subject in found:  # before the baselines: what can be wrong is wrong here, and then nothing is written
        say(f"{subject.name} on {split}: {subject.model.parent}")
        results += evaluate_model(subject, split, folder)
    if own_rank() == 0:  # they need no model
        say(f"baselines on {split}")
        results += evaluate_baselines(datasets.load(first.data.path), first, split, folder)
    return sorted(results, key=table_order), folder
