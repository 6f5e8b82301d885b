"""Items for one user, from a trained run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recrl.backends.decoder_policy import DecoderPolicy
from recrl.config import RunConfig
from recrl.data.dataset import Catalog, Examples
from recrl.data.ragged import Ragged
from recrl.errors import UserError, nearest
from recrl.evaluation.subjects import Subject, subjects
from recrl.ranking.lists import Lists, named_alike
from recrl.ranking.rank import Ranking
from recrl.run_data import RunData, load_run_data


@dataclass(frozen=True)
class Recommendation:
    """One item: ``score`` is the natural log-probability of its name, or of the slate that it stands in."""

    rank: int
    item_id: str
    title: str
    score: float
    sid: str


def latest_run(folder: Path) -> Path:
    """The run below ``folder`` that trained last.

    Raises:
        UserError: there is none.
    """
    runs = [path for path in folder.glob("*") if any((path / stage / "latest").exists() for stage in ("sft", "rl"))]
    if not runs:
        raise UserError(f"no run below {folder}", why="nothing was trained there", fix="name one with --run")
    return max(runs, key=lambda path: (path.stat().st_mtime, path.name))


def parse_user(text: str, catalog: Catalog) -> list[int]:
    """Item ids apart by spaces or commas, oldest first -> item indices.

    Raises:
        UserError: none is named, or one is not in the catalogue.
    """
    index = {item_id: place for place, item_id in enumerate(catalog.item_ids)}
    named = text.replace(",", " ").split()
    if not named:
        raise UserError(
            "the user's history is empty", why="there is nothing to go on", fix='name items, such as --user "12 845"'
        )
    unknown = [item_id for item_id in named if item_id not in index]
    if unknown:
        raise UserError(
            f"item {unknown[0]!r} is not in the catalogue"
            + (f", nor are {len(unknown) - 1} more" if unknown[1:] else ""),
            why=f"it has {len(catalog)} items",
            fix=nearest(unknown[0], catalog.item_ids[:20])
            if len(catalog) <= 20
            else f"ids look like {catalog.item_ids[0]!r}",
        )
    return [index[item_id] for item_id in named]


def best_subject(path: Path) -> Subject:
    """RL's model where there is one, else SFT's; or the checkpoint that the path names."""
    return subjects(path)[-1]


def recommend(subject: Subject, user: str, k: int) -> list[Recommendation]:
    """The ``k`` most probable items for a history, ranked as evaluation ranks them.

    Raises:
        UserError: the history is empty or names an unknown item, or ``k`` is above the number of items or candidates.
    """
    world, policy = load_run_data(subject.config, subject.model)
    catalog = world.dataset.catalog
    history = parse_user(user, catalog)
    check_k(k, subject.config, len(catalog))
    nobody = np.zeros(1, np.int32)
    examples = Examples.plain(nobody, Ragged.from_lists([history]), Ragged.from_lists([[0]]))
    found = ranked_new(subject.config, world, policy, examples, k)
    return [
        Recommendation(
            place + 1,
            catalog.item_ids[item],
            catalog.titles[item],
            float(score),
            "".join(world.index.tokens(int(item))),
        )
        for place, (item, score) in enumerate(zip(found.items[0], found.scores[0], strict=True))
        if item >= 0
    ]


def check_k(k: int, config: RunConfig, items: int) -> None:
    """Whether lists of ``k`` items are feasible.

    Raises:
        UserError: they can't.
    """
    if not 1 <= k <= items:
        raise UserError(f"--k {k}", why=f"the catalogue has {items} items", fix=f"choose 1 to {items}")
    pool = config.prompts.pool
    if 0 < pool < k:
        raise UserError(f"--k {k}", why=f"prompts.pool gives {pool} candidates", fix=f"choose 1 to {pool}")


def ranked_new(config: RunConfig, world: RunData, policy: DecoderPolicy, examples: Examples, k: int) -> Ranking:
    """``k`` items for every history, without those that it holds where the config leaves them out."""
    lists, width = Lists.of(config), max(k, config.eval.beam_width)
    prompts = lists.prompts(world.writer, examples)
    if not config.eval.exclude_history:
        return lists.rank(policy, world.trie, prompts, width, k, world.ranks)
    listed = named_alike(examples, world.trie)
    width += max(len(set(history.tolist())) for history in examples.history)
    return lists.rank(policy, world.trie, prompts, width, width, world.ranks).without(listed.history).first(k)
