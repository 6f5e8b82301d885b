"""An update that goes on from the prompts that its rollout has read, against one that reads them again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from worlds import tiny_codes, tiny_policy, tiny_prompts

from recrl.backends.torch_backend import TransformersPolicy
from recrl.groups.packed import PackedGroups, pack_active
from recrl.groups.rollout import Signal
from recrl.hardware.flops import Work
from recrl.models.shared_prefix import Continue, ReadPrompts
from recrl.rollout.base import RolloutContext
from recrl.rollout.beam import BeamOptions, rollout
from recrl.training.kept_prompts import KeptPrompts
from recrl.training.meter import read_work, update_work

LENGTHS = [5, 9, 2, 7]


def rolled_out(policy: TransformersPolicy, active: Tensor) -> tuple[PackedGroups, ReadPrompts | None]:
    kept = KeptPrompts(policy)
    prompts = tiny_prompts(policy, LENGTHS)
    with torch.no_grad():
        groups = rollout(prompts, BeamOptions(group_size=6), RolloutContext(kept, policy.trie, tiny_codes(), 0))
    advantage = torch.linspace(-1, 1, active.numel()).view(active.shape)
    signal = Signal(groups, advantage, active & groups.exists, torch.zeros(4, dtype=torch.bool))
    batch = pack_active(signal, policy.ops)
    return batch, kept.of(signal, batch)


def result(policy: TransformersPolicy, batch: PackedGroups, read: ReadPrompts | None) -> Tensor:
    """Log-probabilities, entropies and all gradients, one behind the other."""
    logp, entropy = policy.logp(batch, read)
    (logp.sum(1) * batch.advantage).sum().backward()
    found = [logp.detach().flatten(), entropy.flatten()]
    for parameter in policy.parameters():
        assert parameter.grad is not None
        found.append(parameter.grad.flatten() / parameter.grad.abs().max())
        parameter.grad = None
    return torch.cat(found)


def rows(*active: int) -> Tensor:
    """[4, 6] the first rows of every prompt."""
    return torch.arange(6) < torch.tensor(active).unsqueeze(1)


@pytest.mark.parametrize("kind", ["qwen3", "qwen2", "llama"])
@pytest.mark.parametrize("space", ["raw", "legal"])
@pytest.mark.parametrize("active", [rows(6, 6, 6, 6), rows(1, 6, 0, 3)], ids=["all", "some"])
def test_values_and_gradients_are_the_same(kind: str, space: str, active: Tensor) -> None:
    policy = tiny_policy(kind, space=space)
    batch, read = rolled_out(policy, active)
    assert read is not None
    expected = result(policy, batch, None)
    torch.testing.assert_close(result(policy, batch, read), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["padded", "reference"])
def test_every_attention_goes_on_from_prompts(name: str) -> None:
    policy = tiny_policy(kernels={"shared_prefix_attention": name})
    batch, read = rolled_out(policy, rows(2, 6, 0, 3))
    expected = result(policy, batch, None)
    torch.testing.assert_close(result(policy, batch, read), expected, atol=1e-5, rtol=1e-4)


def test_no_prompt_token_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    batch, read = rolled_out(policy, rows(6, 6, 6, 6))
    passes: list[tuple[type, int]] = []
    hidden = policy.hidden

    def counted(ids: Tensor, positions: Tensor, layout: Any) -> Tensor:
        passes.append((type(layout), len(ids)))
        return hidden(ids, positions, layout)

    monkeypatch.setattr(policy, "hidden", counted)
    policy.logp(batch, read)
    assert passes == [(Continue, batch.effective_tokens - sum(LENGTHS))]


def test_few_active_prompts_are_computed_again() -> None:
    """Going back through all 23 tokens is 46. Computed again, 16 tokens are 48, and 14 are 42."""
    for active, is_kept in ((rows(0, 6, 0, 1), True), (rows(2, 0, 1, 1), False), (rows(0, 0, 0, 0), False)):
        assert (rolled_out(tiny_policy(), active)[1] is not None) == is_kept


def test_prompts_that_were_exchanged_behind_the_rollout_are_not_those() -> None:
    policy = tiny_policy()
    kept = KeptPrompts(policy)
    with torch.no_grad():
        groups = rollout(
            tiny_prompts(policy, LENGTHS),
            BeamOptions(group_size=6),
            RolloutContext(kept, policy.trie, tiny_codes(), 0),
        )
    groups = groups.select(torch.tensor([1, 0, 2, 3]))
    signal = Signal(groups, torch.ones(4, 6), groups.exists, torch.zeros(4, dtype=torch.bool))
    assert kept.of(signal, pack_active(signal, policy.ops)) is None


def test_a_rollout_that_reads_twice_keeps_nothing() -> None:
    policy = tiny_policy()
    kept = KeptPrompts(policy)
    prompts = tiny_prompts(policy, LENGTHS)
    with torch.no_grad():
        groups, again = (
            rollout(prompts, BeamOptions(group_size=6), RolloutContext(kept, policy.trie, tiny_codes(), 0))
            for _ in range(2)
        )
        assert not kept.prefill(prompts)[1].requires_grad
    assert torch.equal(groups.tokens, again.tokens)
    signal = Signal(groups, torch.ones(4, 6), groups.exists, torch.zeros(4, dtype=torch.bool))
    assert kept.of(signal, pack_active(signal, policy.ops)) is None


def test_what_is_read_and_what_is_computed_behind_it_are_the_whole() -> None:
    policy = tiny_policy()
    batch, _ = rolled_out(policy, rows(6, 6, 6, 6))
    whole, read = update_work(batch), read_work(batch)
    own = sum(batch.sizes.rows.own)
    seen = batch.pairs - sum(length * (length + 1) // 2 for length in LENGTHS)
    assert read == Work(23, batch.pairs - seen, 0, 19, batch.unread_pairs)
    assert (whole.tokens - read.tokens, whole.unread - read.unread) == (own, 0)
