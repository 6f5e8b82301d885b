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
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recrl.backends.decoder_policy import DecoderPolicy
from recrl.baselines import BASELINES, COMPARED, pools, recommend
from recrl.config import RunConfig
from recrl.data import dataset as datasets
from recrl.data.dataset import Dataset, Examples
from recrl.data.optimum import optimum
from recrl.errors import UserError
from recrl.evaluation import metrics
from recrl.evaluation.measures import Measures
from recrl.evaluation.metrics import PerUser
from recrl.evaluation.results import ALONE, NEW, EvaluationResult, Metric, forget, save_result, table_order
from recrl.evaluation.subjects import Subject, folder_of, run_folder, side_by_side
from recrl.parts import Choice, resolve
from recrl.processes import own_rank
from recrl.prompts.writer import LABELS, Prompts
from recrl.ranking.lists import Lists, named_alike
from recrl.ranking.rank import PromptTable, Ranking, length_batches
from recrl.run_data import RunData, load_run_data

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvalSet:
    """What every recommender is measured on.

    Attributes:
        name: of the split, and of the task where the split holds several.
        examples: the prompts and targets.
        rows: [U] which rows of the split they are.
    """

    name: str
    examples: Examples
    rows: NDArray[np.int64]


def eval_sets(dataset: Dataset, split: str) -> list[EvalSet]:
    """One for plain splits; one a task where the split holds several."""
    examples = dataset.split(split)
    if not len(examples):
        raise UserError(f"the split {split} is empty", why="there is nothing to evaluate", fix="choose another split")
    tasks = sorted(set(examples.tasks))
    if len(tasks) == 1:
        return [EvalSet(split, examples, np.arange(len(examples)))]
    of = np.array(examples.tasks)
    rows = {task: np.flatnonzero(of == task) for task in tasks}
    return [EvalSet(f"{split}.{task}", examples.select(rows[task]), rows[task]) for task in tasks]


@dataclass(frozen=True)
class Evaluation:
    """One split of one data set, measured in one way for every recommender.

    Attributes:
        exclude_history: whether lists without the items of the history are measured too.
        folder: where results are kept.
    """

    dataset: Dataset
    sets: list[EvalSet]
    measures: Measures
    exclude_history: bool
    folder: Path

    @classmethod
    def make(cls, config: RunConfig, split: str, folder: Path) -> Evaluation:
        """Of the config's data, as its ``[eval]`` says.

        Raises:
            UserError: the split is empty, or data or SIDs can't be read.
        """
        dataset = datasets.load(config.data.path)
        measures = Measures.make(dataset, config)
        return cls(dataset, eval_sets(dataset, split), measures, config.eval.exclude_history, folder)

    def model(self, subject: Subject) -> list[EvaluationResult]:
        """Evaluate one model on every set and write the results.

        A model with a memory is measured once more without it, in rows named ``NAME-alone``. What bears the plain name
        is written last: where it is, the others are. Earlier results of the same name and set give way first.
        """
        world, policy = load_run_data(subject.config, subject.model, dataset=self.dataset)
        memory = subject.config.memory.weight
        results: list[EvaluationResult] = []
        for over in self.sets:
            forget(self.folder, subject.name, over.name)
            about: dict[str, Any] = {"kind": "model", "checkpoint": str(subject.model.parent)}
            about |= {"memory": memory} if memory else {}
            if (over.examples.labels >= 0).all():
                results += self._labels(subject, over, world, policy, about)
            else:
                results += self._lists(subject, over, world, policy, about)
        return results

    def _labels(
        self, subject: Subject, over: EvalSet, world: RunData, policy: DecoderPolicy, about: dict[str, Any]
    ) -> list[EvaluationResult]:
        begin = time.perf_counter()
        auc = metrics.auc(label_scores(policy, world, over.examples), over.examples.labels)
        about = about | Lists.of(subject.config).about(subject.config.eval.beam_width)
        result = _result(subject.name, over, begin, {"auc": Metric(value=auc)}, about)
        save_result(result, self.folder, examples=over.rows)
        return [result]

    def _lists(
        self, subject: Subject, over: EvalSet, world: RunData, policy: DecoderPolicy, about: dict[str, Any]
    ) -> list[EvaluationResult]:
        begin = time.perf_counter()
        width, lists = subject.config.eval.beam_width, Lists.of(subject.config)
        prompts = lists.prompts(world.writer, over.examples)
        over = replace(over, examples=named_alike(over.examples, world.trie))
        about = about | lists.about(width)
        bound = _pool_recall(prompts, over)
        asked = {subject.name: prompts}
        if prompts.recalled is not None:
            asked[subject.name + ALONE] = replace(prompts, recalled=None)
        results: list[EvaluationResult] = []
        for name, ways in reversed(asked.items()):
            ranking = lists.rank(policy, world.trie, ways, width, width, world.ranks)
            said = about if ways is prompts else {key: value for key, value in about.items() if key != "memory"}
            results = self._ranked(name, ranking, over, begin, said, bound) + results
            begin = time.perf_counter()
        return results

    def baselines(self) -> list[EvaluationResult]:
        """Popularity, item-kNN and, where it is known, the optimum: on the same examples, with the same metrics."""
        results: list[EvaluationResult] = []
        for over in self.sets:
            if (over.examples.labels >= 0).any() or not len(self.dataset.train):
                continue
            for name in COMPARED:
                forget(self.folder, name, over.name)
                results += self._baseline(name, over)
            if self.dataset.meta.get("format") == "synthetic" and self.dataset.meta.get("split") == "leave-one-out":
                results.append(self._optimum(over))
        return results

    def _baseline(self, name: str, over: EvalSet) -> list[EvaluationResult]:
        begin = time.perf_counter()
        part, options = resolve(BASELINES, Choice(kind=name), where="baseline")
        scorer = part.run(self.dataset.train, self.dataset.catalog, options)
        longest = int(over.examples.history.lengths.max(initial=0)) if self.exclude_history else 0
        wide = min(max(self.measures.ks) + longest, len(self.dataset.catalog))
        items = recommend(scorer, over.examples.history, wide).astype(np.int64)
        ranking = Ranking(items, np.zeros(items.shape, np.float32))
        return self._ranked(name, ranking, over, begin, {"kind": "baseline"}, {})

    def _ranked(
        self,
        name: str,
        ranking: Ranking,
        over: EvalSet,
        begin: float,
        about: dict[str, Any],
        bound: dict[str, PerUser],
    ) -> list[EvaluationResult]:
        """Measure and save a recommender's lists, and where it is wanted those without the items of the history.

        Args:
            bound: [U] what limits every list, reported beside the metrics.
        """
        lists = {name: ranking}
        if self.exclude_history:
            lists[name + NEW] = ranking.without(over.examples.history)
        results: list[EvaluationResult] = []
        for called, found in reversed(lists.items()):
            items = found.first(max(self.measures.ks)).items
            values = self.measures.per_user(items, over.examples) | bound
            result = _result(called, over, begin, self.measures.summary(items, values), about)
            save_result(result, self.folder, per_user=values, examples=over.rows)
            results.insert(0, result)
        return results

    def _optimum(self, over: EvalSet) -> EvaluationResult:
        begin = time.perf_counter()
        expected = optimum(self.dataset.meta, over.examples, self.measures.ks)["expected"]
        found = {name: Metric(value=value) for name, value in expected.items()}
        result = _result("optimum", over, begin, found, {"kind": "optimum"})
        save_result(result, self.folder)
        return result


def _pool_recall(prompts: Prompts, over: EvalSet) -> dict[str, PerUser]:
    """Share of every user's targets that are among the candidates: what no list can do better than; {} without any."""
    if prompts.pool is None or not prompts.pool.lengths.any():
        return {}
    values = pools.recall(prompts.pool, over.examples.targets)
    logger.info("%s: %.1f %% of the targets are among the candidates", over.name, 100 * np.nanmean(values))
    return {"pool_recall": values}


def _result(
    name: str, over: EvalSet, begin: float, found: dict[str, Metric], about: dict[str, Any]
) -> EvaluationResult:
    return EvaluationResult(
        name=name,
        split=over.name,
        num_examples=len(over.examples),
        seconds=round(time.perf_counter() - begin, 3),
        metrics=found,
        **about,
    )


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


def evaluate(
    paths: list[Path], split: str, say: Callable[[str], None], overrides: tuple[str, ...] = ()
) -> tuple[list[EvaluationResult], Path]:
    """Evaluate everything that the paths name, with the baselines of their data.

    Args:
        overrides: ``section.key=value`` each, over every run's config. What is measured under them is kept apart.

    Returns:
        The results, baselines first, the models as the paths name them and a known optimum last, and the folder that
        holds them: ``evaluation`` in that of the first path's run, with overrides a folder in it that they name.

    Raises:
        UserError: a path names nothing, or what they name can't stand in one table.
    """
    found = side_by_side(paths, overrides)
    folder = run_folder(paths[0]) / "evaluation" / folder_of(overrides)
    evaluation = Evaluation.make(found[0].config, split, folder)
    results = []
    for subject in found:  # before the baselines: what can be wrong is wrong here
        weight = subject.config.memory.weight
        beside = f", beside a memory of weight {weight:g}" if weight else ""
        say(f"{subject.name} on {split}: {subject.model.parent}{beside}")
        results += evaluation.model(subject)
    if own_rank() == 0:  # they need no model
        say(f"baselines on {split}")
        results += evaluation.baselines()
    places = {subject.name: place for place, subject in enumerate(found)}
    return sorted(results, key=lambda result: table_order(result, places)), evaluation.folder
