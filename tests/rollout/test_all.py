"""What every rollout promises, over the whole table: single items, slates, and prompts that ask for titles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from worlds import tiny_codes, tiny_prompts

from recrl.backends.torch_backend import TransformersPolicy
from recrl.errors import ConfigError
from recrl.groups.packed import pack_active
from recrl.groups.rollout import RolloutGroups, Signal
from recrl.parts import Choice, load_part, resolve
from recrl.rollout import ROLLOUTS
from recrl.rollout.base import RolloutContext
from recrl.sids.trie import Trie

UNDRAWN = {"catalogue"}
"""Their responses come from no policy."""
OF_ONE_ITEM = {"catalogue", "curriculum"}
"""They make no slates."""
WAYS = [(kind, size) for kind in ROLLOUTS for size in ((1,) if kind in OF_ONE_ITEM else (1, 3))]
GROUP = 6

Made = tuple[RolloutGroups, RolloutContext]
Make = Callable[..., Made]


@pytest.fixture
def make(titled: Callable[..., TransformersPolicy]) -> Make:
    """Groups of five prompts, the second and the fourth of which ask for titles."""

    @torch.no_grad()
    def made(kind: str, slate_size: int, space: str = "raw", seed: int = 5) -> Made:
        policy = titled(space=space)
        context = RolloutContext(policy, policy.trie, tiny_codes(), seed=seed, step=1, steps=6)
        part = load_part(ROLLOUTS, kind, where="rl.rollout")
        options = part.options.model_validate({"group_size": GROUP, "slate_size": slate_size})
        prompts = replace(tiny_prompts(policy, [4, 7, 2, 5, 3]), start=torch.tensor([0, 1, 0, 1, 0]))
        groups = part.run(prompts, options, context)
        assert isinstance(groups, RolloutGroups)
        return groups, context

    return made


def spelled(trie: Trie, start: Tensor, tokens: Tensor, nodes: Tensor, slate_size: int) -> list[tuple[int, int]]:
    """Root and leaf of every item on a walk along the tokens, each of which is chosen at the node that it says."""
    at, found = start, []
    for token, node in zip(tokens, nodes, strict=True):
        assert int(node) == int(at)
        at = trie.step(at, token)
        assert at >= 0
        if trie.count[at] == 0:
            found.append((int(trie.root[at]), int(at)))
            at = trie.root[at] if len(found) < slate_size else at
    assert trie.count[at] == 0
    return found


@pytest.mark.parametrize(("kind", "slate_size"), WAYS)
def test_every_response_is_legal_and_masked_as_long_as_it_is(make: Make, kind: str, slate_size: int) -> None:
    groups, context = make(kind, slate_size)
    trie, start = context.trie, groups.prompts.start
    assert groups.exists.any(1).all()
    for row, place in groups.exists.nonzero().tolist():
        mask = groups.mask[row, place]
        assert not mask[int(mask.sum()) :].any()
        tokens, nodes = groups.tokens[row, place][mask], groups.nodes[row, place][mask]
        found = spelled(trie, start[row], tokens, nodes, slate_size)
        items = groups.items[row, place]
        assert [(root, int(trie.leaf[root, item])) for (root, _), item in zip(found, items, strict=True)] == found
        assert torch.equal(groups.codes[row, place], context.codes[items])
    assert not groups.mask[~groups.exists].any()
    assert (groups.items[~groups.exists] == -1).all()
    assert (groups.codes[~groups.exists] == -1).all()
    assert (groups.logp[~groups.mask] == 0).all()


@pytest.mark.parametrize(("kind", "slate_size"), WAYS)
def test_prompts_keep_their_order_and_what_exists_stands_first(make: Make, kind: str, slate_size: int) -> None:
    groups, context = make(kind, slate_size)
    given = tiny_prompts(context.policy, [4, 7, 2, 5, 3])  # type: ignore[arg-type]
    assert groups.items.shape == (5, GROUP, slate_size)
    for row, length in enumerate(given.length.tolist()):
        assert torch.equal(groups.prompts.ids[row, :length], given.ids[row, :length])
    assert torch.equal(groups.prompts.targets.items, given.targets.items)
    assert context.trie.root[groups.prompts.start].tolist() == [0, 1, 0, 1, 0]
    assert torch.equal(groups.exists, groups.exists.sort(dim=1, descending=True, stable=True).values)
    if kind != "curriculum":
        assert torch.equal(groups.hard, ~groups.hits.any(1))


@pytest.mark.parametrize(("kind", "slate_size"), WAYS)
def test_a_seed_repeats_bit_for_bit(make: Make, kind: str, slate_size: int) -> None:
    (first, _), (again, _) = make(kind, slate_size), make(kind, slate_size)
    for name in {field.name for field in fields(RolloutGroups)} - {"prompts"}:
        assert torch.equal(getattr(first, name), getattr(again, name)), name
    for name in ("ids", "length", "start"):
        assert torch.equal(getattr(first.prompts, name), getattr(again.prompts, name)), name


@pytest.mark.parametrize("kind", ["sample", "dynamic", "catalogue"])
def test_another_seed_draws_others(make: Make, kind: str) -> None:
    first, other = make(kind, 1)[0], make(kind, 1, seed=6)[0]
    assert not torch.equal(first.items, other.items)


@torch.no_grad()
@pytest.mark.parametrize("space", ["raw", "legal"])
@pytest.mark.parametrize(("kind", "slate_size"), [way for way in WAYS if way[0] not in UNDRAWN])
def test_log_probabilities_are_the_actors(make: Make, kind: str, slate_size: int, space: str) -> None:
    groups, context = make(kind, slate_size, space)
    signal = Signal(groups, groups.exists.float(), groups.exists, torch.zeros_like(groups.hard))
    batch = pack_active(signal, context.policy.ops)  # type: ignore[attr-defined]
    logp, _ = context.policy.logp(batch)
    torch.testing.assert_close(logp[batch.mask], groups.logp[groups.exists][batch.mask], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", sorted(UNDRAWN))
def test_what_no_policy_drew_has_no_log_probability(make: Make, kind: str) -> None:
    assert (make(kind, 1)[0].logp == 0).all()


@pytest.mark.parametrize("kind", sorted(OF_ONE_ITEM))
def test_slates_are_refused_with_the_reason(kind: str) -> None:
    choice: dict[str, Any] = {"kind": kind, "slate_size": 2}
    with pytest.raises(ConfigError) as caught:
        resolve(ROLLOUTS, Choice.model_validate(choice), where="rl.rollout")
    assert caught.value.found == "rl.rollout.slate_size = 2"
    assert "name one item" in caught.value.why


def test_the_table_is_covered() -> None:
    assert set(ROLLOUTS) > UNDRAWN | OF_ONE_ITEM
