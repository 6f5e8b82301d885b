"""A model's lists for examples, as it was trained to give them: item by item, or slate by slate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recrl.backends.policy import Policy
from recrl.backends.ranks import ALONE, Ranks
from recrl.config import RunConfig
from recrl.data.dataset import Examples
from recrl.data.ragged import Ragged
from recrl.prompts.writer import Prompts, PromptWriter
from recrl.ranking.rank import Ranking, Slates, rank, rank_slates
from recrl.sids.trie import Trie


@dataclass(frozen=True)
class Lists:
    """How the lists of one run are made.

    Attributes:
        slates: None where a response names one item.
    """

    slates: Slates | None

    @classmethod
    def of(cls, config: RunConfig) -> Lists:
        size = config.prompts.slate_size
        slates = Slates(config.eval.slate_size or size, config.eval.slate_beams)
        return cls(slates if config.asks_for_slates and size > 1 else None)

    def prompts(self, writer: PromptWriter, examples: Examples) -> Prompts:
        """Prompts that ask as training did; examples with a text of their own keep it."""
        if self.slates is not None:
            asked = ["slate" if task == "next" else task for task in examples.tasks]
            examples = replace(examples, tasks=asked)
        return writer.prompts(examples)

    def rank(self, policy: Policy, trie: Trie, prompts: Ragged, width: int, k: int, ranks: Ranks = ALONE) -> Ranking:
        """``k`` items for every prompt; ``width`` beams where they are single items. All ranks get all of them."""
        mine = prompts
        if ranks.data_size > 1:
            share = ranks.share(prompts.lengths.tolist())
            mine = prompts.select(np.arange(share.start, share.stop))
        if self.slates is None:
            found = rank(policy, trie, mine, width, k)
        else:
            found = rank_slates(policy, trie, mine, self.slates, k)
        return Ranking.join(ranks.all_gather(found))

    def about(self, width: int) -> dict[str, Any]:
        """What a result says of it, where single items come of ``width`` beams."""
        if self.slates is None:
            return {"beam_width": width}
        return {"slate_size": self.slates.size, "slate_beams": self.slates.beams}


def named_alike(examples: Examples, trie: Trie) -> Examples:
    """Examples whose items are those that their names stand for.

    Items of one title share it, and a response that says it names the first of them; a SID names one item alone.
    """

    def named(items: Ragged) -> Ragged:
        return Ragged(trie.canonical[items.values].astype(items.values.dtype), items.offsets)

    return replace(examples, history=named(examples.history), targets=named(examples.targets))
