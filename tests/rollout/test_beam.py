"""Tree beam search against an exhaustive scoring of every legal response."""

from __future__ import annotations

import pytest
import torch
from groups_of import groups_of
from torch import Tensor
from worlds import tiny_codes, tiny_index, tiny_policy, tiny_prompts

from recrl.backends.torch_backend import TransformersPolicy
from recrl.data.ragged import Ragged
from recrl.groups.prompts import PromptBatch
from recrl.rollout.base import RolloutContext
from recrl.rollout.beam import BeamOptions, beam_search, rollout
from recrl.sids.tokens import sid_token_ids
from recrl.sids.trie import build_trie


def every_score(policy: TransformersPolicy, prompts: PromptBatch, items: int) -> Tensor:
    """[B, items] raw log-probability of every item's SID, one plain forward each."""
    rows = sid_token_ids(policy.tokenizer, tiny_index(items))
    policy.model.set_attn_implementation("eager")
    scores = torch.zeros(len(prompts), items)
    for prompt in range(len(prompts)):
        head = prompts.ids[prompt, : prompts.length[prompt]]
        for item in range(items):
            response = torch.from_numpy(rows[item]).long()
            logits = policy.model(torch.cat([head, response])[None]).logits[0, len(head) - 1 : -1]
            scores[prompt, item] = logits.log_softmax(-1).gather(1, response[:, None]).sum()
    return scores


class Indifferent:
    """A policy under which every legal token has log-probability 0, so that all responses are tied."""

    device = torch.device("cpu")

    def prefill(self, prompts: PromptBatch) -> tuple[None, Tensor]:
        return None, torch.zeros(len(prompts), 1, 1)

    def extend(self, _state: None, _parent: Tensor, token: Tensor, _step: int) -> Tensor:
        return torch.zeros(*token.shape, 1)

    def prior(self, _prompts: PromptBatch) -> None:
        return None

    def candidate_logp(self, _hidden: Tensor, _candidates: Tensor, exists: Tensor, _bias: None) -> Tensor:
        return torch.zeros(exists.shape).masked_fill(~exists, float("-inf"))


def items_of_ties(rows: list[list[int]], width: int) -> list[int]:
    """What a beam over responses ``rows`` names, best first, where nothing is more likely than anything else."""
    found = beam_search(Indifferent(), build_trie(Ragged.from_lists(rows)), groups_of([[0]]).prompts, width)
    return found.items[0, :, 0].tolist()


def test_equal_beams_come_by_open_beam_then_by_token_then_the_finished_ones() -> None:
    rows = [[1], [2, 5], [2, 6], [3, 4], [3, 5]]
    assert items_of_ties(rows, 5) == [1, 2, 3, 4, 0]
    assert items_of_ties(rows, 3) == [1, 2, 3]


@pytest.mark.parametrize("width", [1, 3, 10, 40])
def test_of_equal_beams_at_the_edge_of_the_width_the_lower_tokens_stay(width: int) -> None:
    assert items_of_ties([[10 + item] for item in range(40)], width) == list(range(width))
    assert items_of_ties([[10, 50 + item] for item in range(40)], width) == list(range(width))


def test_a_wide_beam_finds_every_item_in_the_order_of_its_probability() -> None:
    policy = tiny_policy(items=30)
    prompts = tiny_prompts(policy, [4, 6], items=30)
    with torch.no_grad():
        found = beam_search(policy, policy.trie, prompts, 30)
        expected = every_score(policy, prompts, 30)
    assert found.exists.all()
    torch.testing.assert_close(found.score, expected.sort(descending=True).values, atol=1e-4, rtol=1e-4)
    assert torch.equal(found.items[..., 0], expected.argsort(descending=True))


@pytest.mark.parametrize("width", [1, 3, 16])
def test_every_beam_is_legal_distinct_and_sorted(width: int) -> None:
    policy = tiny_policy()
    prompts = tiny_prompts(policy, [4, 6, 1])
    found = beam_search(policy, policy.trie, prompts, width)
    assert (found.score[:, :-1] >= found.score[:, 1:]).all()
    for row in range(3):
        assert len(set(found.items[row, :, 0].tolist())) == width
        lengths = (found.tokens[row] >= 0).sum(-1)
        assert torch.equal(policy.trie.walk(found.tokens[row].clamp(min=0), lengths), found.items[row, :, 0])


def test_a_beam_wider_than_the_catalogue_says_what_does_not_exist() -> None:
    policy = tiny_policy(items=5)
    context = RolloutContext(policy, policy.trie, tiny_codes(5), seed=0)
    groups = rollout(tiny_prompts(policy, [4], items=5), BeamOptions(group_size=8), context)
    assert groups.exists.sum() == 5
    assert set(groups.items[0, :, 0][groups.exists[0]].tolist()) == set(range(5))
    assert (groups.items[0][~groups.exists[0]] == -1).all()
    assert not groups.mask[0][~groups.exists[0]].any()


def test_padding_of_other_prompts_changes_nothing() -> None:
    policy = tiny_policy()
    both = beam_search(policy, policy.trie, tiny_prompts(policy, [3, 11]), 8)
    prompts = tiny_prompts(policy, [3, 11])
    alone = beam_search(policy, policy.trie, prompts.select(torch.tensor([0])), 8)
    assert torch.equal(both.items[:1], alone.items)
    torch.testing.assert_close(both.score[:1], alone.score, atol=1e-5, rtol=1e-5)


def test_missing_responses_may_be_repetitions_of_the_first() -> None:
    policy = tiny_policy(items=5)
    context = RolloutContext(policy, policy.trie, tiny_codes(5), seed=0)
    groups = rollout(tiny_prompts(policy, [4], items=5), BeamOptions(group_size=8, pad="repeat_first"), context)
    assert groups.exists.all()
    items = groups.items[0, :, 0].tolist()
    assert sorted(items[:5]) == list(range(5))
    assert items[5:] == [items[0]] * 3
    assert torch.equal(groups.logp[0, 5:], groups.logp[0, :1].expand(3, -1))
