"""Beam search against transformers: a toy case, and what must not be reported."""

from __future__ import annotations

import pytest
import torch

from recrl.backends.torch_backend import TransformersPolicy
from recrl.bench import beam
from recrl.bench.beam import BeamFigures, Found, TransformersBeam, allowed_tokens, check_same, measure
from recrl.bench.measurement import Setting, UnequalWorkError
from recrl.bench.world import WorldSize
from recrl.models.checkpoint import load_folder
from recrl.rollout.beam import beam_search
from recrl.training.rl import Rl

WIDTH = 8


def theirs_of(rl: Rl) -> TransformersBeam:
    assert rl.config.rl.init is not None
    return TransformersBeam(load_folder(rl.config.rl.init)[0].eval(), rl.world.trie, rl.environment.prompts(0), WIDTH)


@torch.no_grad()
def ours_of(policy: TransformersPolicy, rl: Rl) -> Found:
    found = beam_search(policy, rl.world.trie, rl.environment.prompts(0), WIDTH)
    return Found(found.items[..., 0], found.score)


def test_a_toy_case_is_measured_and_shown(toy: WorldSize, setting: Setting) -> None:
    case = measure(toy, setting)
    assert len(case.ours.runs) == len(case.theirs.runs) == setting.repeats
    assert case.score_difference < 1e-4
    kept = BeamFigures.model_validate_json(BeamFigures(cases=[case]).model_dump_json())
    assert "| 0.3M | 274,112 | 2 | 16 | 50 |" in beam.render(kept)


def test_both_find_the_same_items_with_the_same_scores(rl: Rl) -> None:
    ours, theirs = ours_of(rl.policy, rl), theirs_of(rl).found()
    assert check_same(ours, theirs) < 1e-4
    assert (theirs.items >= 0).all()
    assert all(len(set(row)) == WIDTH for row in theirs.items.tolist())


def test_what_is_timed_finds_what_was_checked(rl: Rl) -> None:
    theirs = theirs_of(rl)
    tokens = theirs.search()[:, -3:]
    items = rl.world.trie.walk(tokens, torch.full((len(tokens),), 3))
    assert torch.equal(items.view(-1, WIDTH), theirs.found().items)


def test_another_model_is_refused(rl: Rl) -> None:
    theirs = theirs_of(rl)
    with torch.no_grad():
        theirs.model.get_input_embeddings().weight[5:].mul_(1.05)
    with pytest.raises(UnequalWorkError):
        check_same(ours_of(rl.policy, rl), theirs.found())


def test_an_item_that_only_one_found_is_refused() -> None:
    scores = torch.tensor([[-1.0, -2.0]])
    with pytest.raises(UnequalWorkError, match="1 prompts hold other items"):
        check_same(Found(torch.tensor([[3, 4]]), scores), Found(torch.tensor([[3, 5]]), scores))


def test_fewer_items_are_refused() -> None:
    ours = Found(torch.tensor([[3, 4]]), torch.tensor([[-1.0, -2.0]]))
    with pytest.raises(UnequalWorkError, match="other items"):
        check_same(ours, Found(torch.tensor([[3]]), torch.tensor([[-1.0]])))


@pytest.mark.parametrize("wrong", [-2.001, float("nan")])
def test_another_score_is_refused(wrong: float) -> None:
    items = torch.tensor([[3, 4]])
    with pytest.raises(UnequalWorkError, match="scores differ"):
        check_same(Found(items, torch.tensor([[-1.0, -2.0]])), Found(items, torch.tensor([[-1.0, wrong]])))


def test_the_order_of_equal_scores_does_not_matter() -> None:
    scores = torch.tensor([[-1.0, -1.0]])
    assert check_same(Found(torch.tensor([[3, 4]]), scores), Found(torch.tensor([[4, 3]]), scores)) == 0


def test_the_table_of_prefixes_allows_what_the_trie_does(rl: Rl) -> None:
    allowed = allowed_tokens(rl.world.trie, prompt_tokens=2)
    rows = [row.tolist() for row in rl.world.writer.responses()]
    for row in rows:
        for length in range(3):
            following = {other[length] for other in rows if other[:length] == row[:length]}
            assert set(allowed(0, torch.tensor([7, 7, *row[:length]])).tolist()) == following
