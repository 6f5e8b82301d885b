"""Prompts that show candidates, over the whole table of rollouts: responses come from these alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from worlds import tiny_codes, tiny_prompts

from recrl.backends.torch_backend import TransformersPolicy
from recrl.groups.packed import pack_active
from recrl.groups.prompts import PromptBatch, Targets
from recrl.groups.rollout import RolloutGroups, Signal
from recrl.parts import load_part
from recrl.rollout import ROLLOUTS
from recrl.rollout.base import RolloutContext, join_groups
from recrl.rollout.beam import beam_search
from recrl.rollout.curriculum import CurriculumOptions
from recrl.rollout.curriculum import rollout as curriculum
from recrl.signals.base import SignalContext
from recrl.signals.recast import RecastOptions, recast

ITEMS = 40
LENGTHS = [4, 7, 2, 5, 3]
ROOTS = [0, 1, 0, 1, 0]
POOL = [[3, 8, 20, 21, 33, 39], [0, 5, 10, 12, 15, 20], [7, 1, -1, -1, -1, -1], [2, 3, 30, 31, -1, -1], [-1] * 6]
"""Of five prompts; the second and the fourth ask for titles, and the last one shows no candidates."""
OF_ONE_ITEM = {"catalogue", "curriculum"}
WAYS = [(kind, size) for kind in ROLLOUTS for size in ((1,) if kind in OF_ONE_ITEM else (1, 3))]

Titled = Callable[..., TransformersPolicy]


def asking(policy: TransformersPolicy, targets: list[int], pool: list[list[int]] | None) -> PromptBatch:
    asked = torch.tensor(targets).unsqueeze(1)
    prompts = replace(
        tiny_prompts(policy, LENGTHS), start=torch.tensor(ROOTS), targets=Targets(asked, tiny_codes()[asked])
    )
    return prompts if pool is None else replace(prompts, pool=torch.tensor(pool))


def context_of(policy: TransformersPolicy, step: int = 1) -> RolloutContext:
    return RolloutContext(policy, policy.trie, tiny_codes(), seed=5, step=step, steps=6)


@torch.no_grad()
def run(policy: TransformersPolicy, kind: str, slate_size: int, prompts: PromptBatch, group: int = 6) -> RolloutGroups:
    part = load_part(ROLLOUTS, kind, where="rl.rollout")
    options = part.options.model_validate({"group_size": group, "slate_size": slate_size})
    groups: RolloutGroups = part.run(prompts, options, context_of(policy))
    return groups


def actor_logp(policy: TransformersPolicy, groups: RolloutGroups) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the existing responses' tokens under the actor, and those that the rollout said."""
    signal = Signal(groups, groups.exists.float(), groups.exists, torch.zeros_like(groups.hard))
    batch = pack_active(signal, policy.ops)
    logp, _ = policy.logp(batch)
    return logp[batch.mask], groups.logp[groups.exists][batch.mask]


@pytest.mark.parametrize(("kind", "slate_size"), WAYS)
def test_every_response_names_candidates(titled: Titled, kind: str, slate_size: int) -> None:
    policy = titled()
    groups = run(policy, kind, slate_size, asking(policy, [8, 12, 7, 30, 11], POOL))
    for row, candidates in enumerate(POOL[:4]):
        items = groups.items[row][groups.exists[row]]
        assert len(items)
        assert {*items.flatten().tolist()} <= {*candidates}
    if kind != "curriculum":  # behind what it gives fewer are left
        assert groups.exists[4].all()  # the prompt without candidates has as many responses as it wants
    assert groups.prompts.pool is not None
    assert groups.prompts.pool.tolist() == POOL


@pytest.mark.parametrize("space", ["raw", "legal"])
def test_a_wide_beam_finds_every_candidate_in_the_order_of_its_probability(titled: Titled, space: str) -> None:
    policy = titled(space=space)
    with torch.no_grad():
        some = beam_search(policy, policy.trie, asking(policy, [8] * 5, POOL), ITEMS)
        every = beam_search(policy, policy.trie, asking(policy, [8] * 5, None), ITEMS)
    for row, candidates in enumerate(POOL):
        wanted = [item for item in every.items[row, :, 0].tolist() if item in candidates or row == 4]
        wanted = [item for item in wanted if item >= 0]
        found = some.items[row, :, 0][some.exists[row]].tolist()
        assert sorted(found) == sorted(wanted)
        if space == "raw":
            assert found == wanted
            place = [every.items[row, :, 0].tolist().index(item) for item in found]
            torch.testing.assert_close(some.score[row, : len(found)], every.score[row, place], atol=1e-5, rtol=1e-5)
        else:  # what is legal has all the probability
            assert some.score[row, : len(found)].exp().sum() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("space", ["raw", "legal"])
@pytest.mark.parametrize(("kind", "slate_size"), [way for way in WAYS if way[0] != "curriculum"])
def test_a_pool_of_the_whole_catalogue_changes_nothing(titled: Titled, kind: str, slate_size: int, space: str) -> None:
    policy = titled(space=space)
    targets = [8, 12, 7, 30, 11]
    every = asking(policy, targets, [list(range(ITEMS))] * 5)
    one, other = (run(policy, kind, slate_size, prompts) for prompts in (every, asking(policy, targets, None)))
    if kind == "catalogue":  # it draws in another way
        assert torch.equal(one.items[:, 0], other.items[:, 0])
        assert torch.equal(one.exists, other.exists)
        return
    for name in ("tokens", "mask", "nodes", "logp", "items", "exists"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


@torch.no_grad()
@pytest.mark.parametrize("space", ["raw", "legal"])
@pytest.mark.parametrize(("kind", "slate_size"), [way for way in WAYS if way[0] != "catalogue"])
def test_log_probabilities_are_the_actors(titled: Titled, kind: str, slate_size: int, space: str) -> None:
    policy = titled(space=space)
    groups = run(policy, kind, slate_size, asking(policy, [8, 12, 7, 30, 11], POOL))
    actor, said = actor_logp(policy, groups)
    torch.testing.assert_close(actor, said, atol=1e-4, rtol=1e-4)
    parts = [groups.select(torch.tensor(rows)) for rows in ([3, 1], [4], [0, 2])]
    together, _ = actor_logp(policy, join_groups(parts))
    apart = torch.cat([actor_logp(policy, part)[0] for part in parts])
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)


def test_micro_batches_keep_the_candidates_of_their_prompts(titled: Titled) -> None:
    policy = titled(space="legal")
    groups = run(policy, "sample", 1, asking(policy, [8, 12, 7, 30, 11], POOL))
    signal = Signal(groups, groups.exists.float(), groups.exists, torch.zeros_like(groups.hard))
    batch = pack_active(signal, policy.ops)
    with torch.no_grad():
        whole, _ = policy.logp(batch)
        parts = torch.cat([policy.logp(part)[0] for part in batch.micro_batches(1)])
    assert len(batch.micro_batches(1)) == 5
    torch.testing.assert_close(whole, parts, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_no_guide_is_given_to_a_target_that_is_no_candidate(titled: Titled) -> None:
    policy = titled()
    # The first and the third ask for an item of theirs, which two beams may miss; the last shows no candidates.
    pool = [POOL[0], POOL[1], [1, 7, 9, 22, 23, 25], POOL[3], POOL[4]]
    for inside in (True, False):
        first = beam_search(policy, policy.trie, asking(policy, [0] * 5, pool), 2).items[..., 0]
        missed = [next(item for item in pool[row] if item not in first[row].tolist()) for row in (0, 2)]
        targets = [missed[0], 12, missed[1], 30, 11] if inside else [0, 12, 0, 30, 11]
        groups = curriculum(asking(policy, targets, pool), CurriculumOptions(group_size=2), context_of(policy, 0))
        given = groups.prompts.length - torch.tensor(LENGTHS)
        assert groups.hard[[0, 2]].all()
        assert given[[0, 2]].tolist() == ([2, 2] if inside else [0, 0])
        assert given[1] == given[3] == 0
        for row in (0, 2):
            assert {*groups.items[row][groups.exists[row]].flatten().tolist()} <= {*pool[row]}


@pytest.mark.parametrize("seed", range(3))
def test_a_group_whose_target_is_no_candidate_is_not_repaired(titled: Titled, seed: int) -> None:
    policy = titled()
    prompts = asking(policy, [0, 3, 7, 30, 11], POOL)  # the first two targets are none of their candidates
    groups = run(policy, "sample", 1, prompts)
    groups = replace(groups, exists=groups.exists & ~groups.hits)  # no group keeps a hit
    rewards = torch.zeros(5, 6, 1)
    signal = recast(groups, rewards, torch.ones(1), RecastOptions(), SignalContext(policy.ops, policy.trie, seed, {}))
    assert signal.groups.hits.any(1).tolist() == [False, False, True, True, True]
    assert signal.repaired.tolist()[:2] == [False, False]


def test_a_target_that_is_no_candidate_stands_against_nothing(titled: Titled) -> None:
    policy = titled()
    prompts = asking(policy, [0, 12, 7, 5, 11], POOL)
    prompts = replace(prompts, history=torch.tensor([[-1], [10], [-1], [-1], [3]]))
    groups = run(policy, "catalogue", 1, prompts, group=9)
    found = [groups.items[row, :, 0][groups.exists[row]].tolist() for row in range(5)]
    assert found[0] == found[3] == []
    assert found[1][0] == 12
    assert sorted(found[1]) == [0, 5, 12, 15, 20]
    assert found[2] == [7, 1]
    assert len({*found[4]}) == 9
    assert 3 not in found[4]


def test_whether_a_prompt_can_be_answered() -> None:
    nothing, length = torch.zeros(4, 1, dtype=torch.long), torch.ones(4, dtype=torch.long)
    targets = Targets(torch.tensor([[3, 1], [1, 3], [-1, 3], [2, -1]]), torch.zeros(4, 2, 1))
    prompts = PromptBatch(nothing, length, targets, nothing, nothing[:, 0])
    assert prompts.answerable.tolist() == [True, True, False, True]
    assert prompts.eligible(5) is None
    shown = replace(prompts, pool=torch.tensor([[3, 4], [3, -1], [3, -1], [-1, -1]]))
    assert shown.answerable.tolist() == [True, False, False, True]
    allowed = shown.eligible(5)
    assert allowed is not None
    assert [row.nonzero().squeeze(1).tolist() for row in allowed] == [[3, 4], [3], [3], [0, 1, 2, 3, 4]]
