"""What every rollout promises, over the whole table."""

from __future__ import annotations

import pytest
import torch
from worlds import tiny_codes, tiny_policy, tiny_prompts

from recrl.components import load_part
from recrl.groups import RolloutGroups, Signal, pack_active
from recrl.rollout import ROLLOUTS
from recrl.rollout.base import RolloutContext

UNDRAWN = {"catalogue"}
"""Their responses come from no policy."""


@torch.no_grad()
def made(kind: str, space: str = "raw") -> tuple[RolloutGroups, RolloutContext]:
    policy = tiny_policy(space=space)
    context = RolloutContext(policy, policy.trie, tiny_codes(), seed=5, step=1, steps=6)
    part = load_part(ROLLOUTS, kind, where="rl.rollout")
    groups = part.run(tiny_prompts(policy, [4, 7, 2, 5]), part.options(group_size=6), context)
    assert isinstance(groups, RolloutGroups)
    return groups, context


@pytest.mark.parametrize("kind", ROLLOUTS)
def test_every_response_is_legal_and_masked_as_long_as_it_is(kind: str) -> None:
    groups, context = made(kind)
    trie, prompts = context.trie, groups.prompts
    assert groups.exists.any(1).all()
    for row, place in groups.exists.nonzero().tolist():
        mask = groups.mask[row, place]
        tokens, nodes = groups.tokens[row, place][mask], groups.nodes[row, place][mask]
        assert not mask[int(mask.sum()) :].any()
        at = prompts.start[row]
        for token, node in zip(tokens, nodes, strict=True):
            assert int(node) == int(at)
            at = trie.step(at.unsqueeze(0), token.unsqueeze(0))[0]
            assert at >= 0
        assert trie.count[at] == 0
        assert int(groups.items[row, place, 0]) == int(trie.item[at])
        assert groups.codes[row, place, 0].tolist() == context.codes[groups.items[row, place, 0]].tolist()
    assert not groups.mask[~groups.exists].any()
    assert (groups.items[~groups.exists] == -1).all()


@pytest.mark.parametrize("kind", ROLLOUTS)
def test_a_seed_repeats_bit_for_bit(kind: str) -> None:
    (first, _), (again, _) = made(kind), made(kind)
    for name in ("tokens", "mask", "nodes", "logp", "items", "codes", "exists", "hard"):
        assert torch.equal(getattr(first, name), getattr(again, name)), name


@torch.no_grad()
@pytest.mark.parametrize("space", ["raw", "legal"])
@pytest.mark.parametrize("kind", [kind for kind in ROLLOUTS if kind not in UNDRAWN])
def test_log_probabilities_are_the_actors(kind: str, space: str) -> None:
    groups, context = made(kind, space)
    signal = Signal(groups, groups.exists.float(), groups.exists, torch.zeros_like(groups.hard))
    batch = pack_active(signal, context.policy.ops)  # type: ignore[attr-defined]
    logp, _ = context.policy.logp(batch)
    torch.testing.assert_close(logp[batch.mask], groups.logp[groups.exists][batch.mask], atol=1e-4, rtol=1e-4)


def test_the_table_is_covered() -> None:
    assert set(ROLLOUTS) > UNDRAWN
