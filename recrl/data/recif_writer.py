"""The marketplace in RecIF's parquet format, so that OpenOneRec's protocol runs without the benchmark's own data.

A third of the categories are videos, a third ads, a third products. The first 70 % of a user's sequence are history,
the rest targets. Users are split 80 / 20 into train and test, as in the benchmark (papers.md E-2).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recrl.atomic import new_folder
from recrl.data.marketplace import Ints, Market, MarketOptions, build_market, simulate, stream, user_times
from recrl.data.readers import READERS
from recrl.data.readers.item_words import describe
from recrl.data.readers.recif import MAX_TARGETS, TASKS, sid_text
from recrl.errors import ConfigError
from recrl.parts import Choice, resolve

HISTORY_SHARE = 0.7
TRAIN_SHARE = 0.8
BEHAVIOURS = {"longview": 0.5, "like": 0.2, "follow": 0.1, "forward": 0.1, "not_interested": 0.1}
SYSTEM = "You recommend items to a user from what the user did before."


@dataclass(frozen=True)
class _User:
    """One user's past and future items, and the behaviour at each (index into ``BEHAVIOURS``)."""

    uid: int
    past: Ints
    future: Ints
    past_behaviour: Ints
    future_behaviour: Ints


def write_recif(given: Mapping[str, Any], out: Path, *, overwrite: bool = False) -> dict[str, int]:
    """Write ``OUT/{task}/{task}_{train,test}.parquet`` and return the rows of every file.

    ``given`` are options of the synthetic reader. A user without a target of a kind gives no row of that task.

    Raises:
        ConfigError: a wrong option, or fewer than three categories.
        UserError: ``out`` can't be written.
    """
    options = resolve(READERS, Choice(kind="synthetic", **given), where="data")[1]
    assert isinstance(options, MarketOptions)
    if options.categories < 3:
        raise ConfigError(
            f"{options.categories} categories", why="videos, ads and products need one each", fix="pass 3 or more"
        )
    market = build_market(options)
    writer = _Writer(market)
    rows: dict[tuple[str, str], list[dict[str, str]]] = {
        (task, split): [] for task in TASKS for split in ("train", "test")
    }
    rng = stream(options, "behaviour")
    for user in _users(market, rng):
        split = "train" if rng.random() < TRAIN_SHARE else "test"
        for task, prompt, answer in writer.tasks(user, rng):
            rows[task, split].append(_row(user.uid, task, split, prompt, answer, len(rows[task, split])))
    with new_folder(out, overwrite=overwrite) as folder:
        for (task, split), part in rows.items():
            (folder / task).mkdir(exist_ok=True)
            schema = pa.schema([(name, pa.string()) for name in ("uuid", "source", "messages", "metadata")])
            pq.write_table(pa.Table.from_pylist(part, schema=schema), folder / task / f"{task}_{split}.parquet")
    return {f"{task}_{split}": len(part) for (task, split), part in rows.items()}


def _users(market: Market, rng: np.random.Generator) -> Iterator[_User]:
    offsets, times = user_times(market.options)
    items = simulate(market, offsets, times).astype(np.int64)
    behaviour = rng.choice(len(BEHAVIOURS), size=len(items), p=list(BEHAVIOURS.values()))
    for uid, (start, stop) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        cut = start + max(1, int(HISTORY_SHARE * (stop - start)))
        yield _User(uid, items[start:cut], items[cut:stop], behaviour[start:cut], behaviour[cut:stop])


def _row(uid: int, task: str, split: str, prompt: str, answer: str, number: int) -> dict[str, str]:
    """Train rows end with the assistant's answer; test rows have it in the metadata, as the benchmark's files do."""
    turns = [("system", SYSTEM), ("user", prompt)] + ([("assistant", answer)] if split == "train" else [])
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    metadata: dict[str, object] = {"uid": uid} | ({"answer": answer} if split == "test" else {})
    return {
        "uuid": f"{task}-{split}-{number}",
        "source": f"recrl_{task}",
        "messages": json.dumps(messages, ensure_ascii=False),
        "metadata": json.dumps(metadata, ensure_ascii=False),
    }


class _Writer:
    """Prompts and answers of a market."""

    def __init__(self, market: Market) -> None:
        self.kind = market.category % 3  # 0 video, 1 ad, 2 product
        self.category = market.category
        self.names = describe(market).categories
        first_line = np.full(market.options.categories, len(market.line))
        np.minimum.at(first_line, market.category, market.line)
        codes = zip(
            market.category.tolist(),
            (market.line - first_line[market.category]).tolist(),
            market.place.tolist(),
            strict=True,
        )
        self.sids = [sid_text(code) for code in codes]
        self.popularity = market.weight / market.weight.sum()

    def tasks(self, user: _User, rng: np.random.Generator) -> Iterator[tuple[str, str, str]]:
        """``(task, prompt, answer)`` for every task that this user has a target for."""
        videos, ads, products = (user.past[self.kind[user.past] == kind] for kind in range(3))
        watched = f"Videos watched: {self._sids(videos[-512:])}"
        recent = f"Videos watched: {self._sids(videos[-100:])}"
        prompts = {
            "video": (0, videos, watched),
            "ad": (1, ads, f"{recent}\nAds clicked: {self._sids(ads[-200:])}"),
            "product": (2, products, f"{recent}\nProducts clicked: {self._sids(products[-100:])}"),
        }
        for task, (kind, own, text) in prompts.items():
            targets = user.future[self.kind[user.future] == kind]
            if len(own) and len(targets):
                yield task, f"{text}\nWhich {task}s come next?", self._answer(targets)
        yield self._interactive(user)
        done = self._done(user)
        asked = int(user.future_behaviour[0])
        question = f"Which items will get the behaviour {list(BEHAVIOURS)[asked]} next?"
        yield "label_cond", f"{done}\n{question}", self._answer(user.future[user.future_behaviour == asked])
        for candidate, label in ((int(user.future[0]), "是"), (self._other(user, rng), "否")):
            yield "label_pred", f"{done}\nWill the user take {self.sids[candidate]}? Answer 是 or 否.", label

    def _interactive(self, user: _User) -> tuple[str, str, str]:
        counts = Counter(self.names[item] for item in user.past.tolist())
        liked = [name for name, _ in counts.most_common(3)]
        lines = [
            f"{name}: {self._sids(np.array([i for i in user.past if self.names[i] == name][-5:]))}" for name in liked
        ]
        wanted = self.category[user.future[0]]
        targets = user.future[self.category[user.future] == wanted]
        keyword = self.names[int(user.future[0])]
        return "interactive", "Profile:\n" + "\n".join(lines) + f"\nThe user asks for: {keyword}", self._answer(targets)

    def _done(self, user: _User) -> str:
        """At most ten items of each behaviour."""
        parts = []
        for number, name in enumerate(BEHAVIOURS):
            items = user.past[user.past_behaviour == number][-10:]
            if len(items):
                parts.append(f"{name}: {self._sids(items)}")
        return "\n".join(parts)

    def _other(self, user: _User, rng: np.random.Generator) -> int:
        """An item by popularity that the user never takes; after many misses the least popular one."""
        taken = set(user.past.tolist()) | set(user.future.tolist())
        drawn = rng.choice(len(self.sids), size=64, p=self.popularity).tolist()
        return next((item for item in drawn if item not in taken), int(np.argmin(self.popularity)))

    def _sids(self, items: Ints) -> str:
        return "".join(self.sids[item] for item in items.tolist())

    def _answer(self, items: Ints) -> str:
        distinct = list(dict.fromkeys(items.tolist()))[:MAX_TARGETS]
        return "".join(self.sids[item] for item in distinct)
