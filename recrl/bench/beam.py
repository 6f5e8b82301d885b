"""Constrained beam search of ours against transformers' ``generate``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from recrl.bench.markdown import milliseconds, ratio, table
from recrl.bench.measurement import Figures, Measurement, Seconds, Setting, UnequalWorkError
from recrl.bench.timing import interleave
from recrl.bench.world import LEVELS, WorldSize, write_world
from recrl.environments.log_prompts import PromptSource
from recrl.groups.prompts import PromptBatch
from recrl.models.checkpoint import load_folder
from recrl.rollout.beam import beam_search
from recrl.run_data import load_run_data
from recrl.sids.trie import Trie

ITEMS = 12_000
WIDTH = 50
HISTORY = 20
TOLERANCE = 1e-4

FULL = (WorldSize("0.3M", 32, HISTORY, ITEMS, WIDTH), WorldSize("5M", 32, HISTORY, ITEMS, WIDTH))
QUICK = (WorldSize("0.3M", 8, HISTORY, ITEMS, WIDTH), WorldSize("5M", 2, HISTORY, ITEMS, WIDTH))


class Case(Figures):
    """Figures of one size."""

    shape: str
    parameters: int
    prompts: int
    prompt_tokens: int
    items: int
    width: int
    ours: Seconds
    theirs: Seconds
    score_difference: float


class BeamFigures(Figures):
    cases: list[Case]


@dataclass(frozen=True)
class Found:
    """[B, W] items, best first, and their [B, W] scores."""

    items: Tensor
    scores: Tensor


def run(setting: Setting, sizes: Sequence[WorldSize] | None = None) -> BeamFigures:
    """Measure every size.

    Raises:
        UnequalWorkError: the two do not find the same items.
    """
    chosen = sizes or (QUICK if setting.quick else FULL)
    return BeamFigures(cases=[measure(size, setting) for size in chosen])


@torch.no_grad()
def measure(size: WorldSize, setting: Setting) -> Case:
    """Check that both find the same, then time them in turn."""
    setting.say(f"beam: {size.shape}, {size.prompts} prompts of {size.prompt_tokens} tokens, width {size.group}")
    with tempfile.TemporaryDirectory() as name:
        config = write_world(Path(name), size, setting.threads)
        assert config.rl.init is not None
        world, policy = load_run_data(config, config.rl.init)
        stock, _ = load_folder(config.rl.init)
        prompts = PromptSource(config, world, policy.config).batch(0)
    width = size.group
    theirs = TransformersBeam(stock.eval(), world.trie, prompts, width)
    responses = beam_search(policy, world.trie, prompts, width)
    difference = check_same(Found(responses.items[..., 0], responses.score), theirs.found())
    times = interleave(
        {"ours": lambda: beam_search(policy, world.trie, prompts, width), "theirs": theirs.search},
        setting.repeats,
        settle=True,
    )
    return Case(
        shape=size.shape,
        parameters=sum(parameter.numel() for parameter in stock.parameters()),
        prompts=size.prompts,
        prompt_tokens=size.prompt_tokens,
        items=size.items,
        width=width,
        ours=times["ours"],
        theirs=times["theirs"],
        score_difference=difference,
    )


class TransformersBeam:
    """``generate`` with as many beams, held to the trie by ``prefix_allowed_tokens_fn``.

    Responses have ``LEVELS`` tokens and no end token; without length penalty, a score is a sum of log-probabilities.
    """

    def __init__(self, model: PreTrainedModel, trie: Trie, prompts: PromptBatch, width: int) -> None:
        assert bool((prompts.length == prompts.ids.shape[1]).all()), "the prompts need no padding"
        self.model, self.trie, self.prompts, self.width = model, trie, prompts, width
        self.allowed = allowed_tokens(trie, prompts.ids.shape[1])
        self.options: dict[str, Any] = {
            "num_beams": width,
            "num_return_sequences": width,
            "max_new_tokens": LEVELS,
            "length_penalty": 0.0,
            "early_stopping": False,
            "do_sample": False,
            "pad_token_id": model.config.pad_token_id,
        }
        # ``generate`` would take the model's end token, and keep room for beams that end with it.
        model.generation_config = GenerationConfig()

    def search(self, **more: Any) -> Any:
        """One call of ``generate``."""
        ids = self.prompts.ids
        return self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            prefix_allowed_tokens_fn=self.allowed,
            generation_config=GenerationConfig(**self.options, **more),
        )

    def found(self) -> Found:
        """What it finds, with scores; they cost ``generate`` extra work, so this is not what is timed."""
        out = self.search(return_dict_in_generate=True, output_scores=True)
        tokens = out.sequences[:, self.prompts.ids.shape[1] :]
        items = self.trie.walk(tokens, torch.full((len(tokens),), LEVELS))
        return Found(items.view(-1, self.width), out.sequences_scores.view(-1, self.width))


def allowed_tokens(trie: Trie, prompt_tokens: int) -> Callable[[int, Tensor], Tensor]:
    """The trie as ``prefix_allowed_tokens_fn`` wants it: a table from a prefix to the tokens that may follow."""
    prefixes: list[tuple[int, ...]] = [()]
    table: dict[tuple[int, ...], Tensor] = {}
    for node, (start, number) in enumerate(zip(trie.start.tolist(), trie.count.tolist(), strict=True)):
        following = trie.token[start : start + number]
        prefixes += [(*prefixes[node], token) for token in following.tolist()]  # edge e leads to node e + 1
        if number:
            table[prefixes[node]] = following
    return lambda _, ids: table[tuple(ids[prompt_tokens:].tolist())]


def check_same(ours: Found, theirs: Found) -> float:
    """The largest difference of a score.

    Raises:
        UnequalWorkError: a prompt has other items, or an item another score.
    """
    order, their_order = ours.items.argsort(1), theirs.items.argsort(1)
    items, their_items = ours.items.gather(1, order), theirs.items.gather(1, their_order)
    if items.shape != their_items.shape or not torch.equal(items, their_items):
        prompts = "all" if items.shape != their_items.shape else int((items != their_items).any(1).sum())
        raise UnequalWorkError(f"the beams of {prompts} prompts hold other items than those of transformers")
    difference = float((ours.scores.gather(1, order) - theirs.scores.gather(1, their_order)).abs().max())
    if not difference <= TOLERANCE:
        raise UnequalWorkError(f"scores differ by {difference:.2g}", why=f"more than {TOLERANCE} is another search")
    return difference


def render(figures: BeamFigures) -> str:
    """A table."""
    return table(
        ("model", "parameters", "prompts", "prompt tokens", "items", "ours", "transformers", "ratio", "difference"),
        [
            (
                case.shape,
                f"{case.parameters:,}",
                case.prompts,
                case.prompt_tokens,
                f"{case.items:,}",
                milliseconds(case.ours.median),
                milliseconds(case.theirs.median),
                ratio(case.theirs.median / case.ours.median),
                f"{case.score_difference:.1e}",
            )
            for case in figures.cases
        ],
    )


BEAM = Measurement(
    title="Constrained beam search, against transformers",
    about=f"""\
The {WIDTH} best items for histories of {HISTORY} items, by beam search that is held to a trie of {LEVELS} levels:
`beam_search` against `generate(num_beams={WIDTH}, prefix_allowed_tokens_fn=...)` with the length penalty and early
stopping off, {LEVELS} new tokens and no end token. Its table of prefixes is built beforehand. Before timing, both
find the same items for every prompt, with scores that differ by at most {TOLERANCE}; otherwise nothing is reported.
Each runs once untimed before every run that counts, so that neither starts with the other's caches.""",
    figures=BeamFigures,
    run=run,
    render=render,
)
