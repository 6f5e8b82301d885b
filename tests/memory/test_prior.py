"""The memory along the trie, against a walk over all items."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from worlds import tiny_policy

from recrl.data.ragged import Ragged
from recrl.memory.prior import node_prior
from recrl.memory.recalled import Recalled
from recrl.sids.trie import Trie, build_trie

ITEMS = 40


def recalled(items: list[list[int]]) -> Recalled:
    known = torch.tensor(items)
    return Recalled(known, (known >= 0).float(), torch.zeros(*known.shape, 1))


def trie() -> Trie:
    return tiny_policy(items=ITEMS).trie


def weights(items: list[int], above: Tensor) -> Tensor:
    """[N] of one prompt."""
    weight = torch.ones(ITEMS, dtype=torch.float64)
    for item, value in zip(items, above.tolist(), strict=True):
        if item >= 0:
            weight[item] = torch.tensor(value, dtype=torch.float64).exp()
    return weight


def below(trie: Trie, node: int, root: int = 0) -> list[int]:
    """Items whose path leads through a node."""
    found = []
    for item in range(ITEMS):
        at = int(trie.leaf[root, item])
        path = {at}
        while at >= trie.roots:
            at = int(trie.parent[at])
            path.add(at)
        if node in path:
            found.append(item)
    return found


def test_every_node_has_the_mean_weight_of_the_items_below_it():
    tree = trie()
    items, above = [[3, 17, 25, -1], [0, 39, 8, 9]], torch.tensor([[2.0, 0.5, 7.0, 0.0], [-3.0, 20.0, 1.0, 60.0]])
    prior = node_prior(tree, torch.zeros(2, dtype=torch.long), recalled(items), above)
    for prompt in range(2):
        weight = weights(items[prompt], above[prompt])
        for node in range(len(tree.count)):
            expected = weight[below(tree, node)].mean().log()
            assert float(prior.table[prompt, node]) == pytest.approx(float(expected), abs=2e-5)


def test_the_steps_of_a_path_add_up_to_the_items_weight_less_the_roots():
    tree = trie()
    items, above = [[3, 17, 25]], torch.tensor([[2.0, 0.5, 7.0]])
    prior = node_prior(tree, torch.zeros(1, dtype=torch.long), recalled(items), above)
    for item, own in ((3, 2.0), (25, 7.0), (11, 0.0)):
        _, nodes = tree.paths(torch.tensor([item]))
        path = [*nodes[0][nodes[0] >= 0].tolist(), int(tree.leaf[0, item])]
        steps = [float(prior.steps(torch.tensor([node]), torch.tensor([[child]]))) for node, child in pairwise(path)]
        assert sum(steps) == pytest.approx(own - float(prior.table[0, 0]), abs=1e-5)


def test_items_far_below_the_others_stay_possible():
    tree = trie()
    prior = node_prior(tree, torch.zeros(1, dtype=torch.long), recalled([[3, 17]]), torch.tensor([[-200.0, -300.0]]))
    assert torch.isfinite(prior.table).all()
    assert float(prior.table[0, tree.leaf[0, 3]]) < -80  # float32's smallest weight beside 1
    assert float(prior.table[0, 0]) == pytest.approx(math.log(1 - 2 / int(tree.leaves[0])), abs=1e-5)


def test_equal_weights_add_nothing():
    tree = trie()
    prior = node_prior(tree, torch.zeros(1, dtype=torch.long), recalled([[1, 2, 3]]), torch.zeros(1, 3))
    assert not prior.table.any()
    nothing = node_prior(tree, torch.zeros(1, dtype=torch.long), recalled([[-1, -1, -1]]), torch.zeros(1, 3))
    assert not nothing.table.any()


def test_the_gradient_is_that_of_the_means():
    tree = trie()
    above = torch.tensor([[2.0, 0.5, 1.0]], dtype=torch.float64, requires_grad=True)
    items = recalled([[3, 17, 25]])

    def table(values: Tensor) -> Tensor:
        return node_prior(tree, torch.zeros(1, dtype=torch.long), items, values).table

    assert torch.autograd.gradcheck(table, (above,))


def test_below_a_second_root_the_same_items_stand_at_other_leaves():
    own = Ragged.from_lists([[10 + item // 8, 20 + item % 8] for item in range(ITEMS)])
    other = Ragged.from_lists([[40 + item % 5, 50 + item // 5, 60] for item in range(ITEMS)])
    tree = build_trie(own, other)
    prior = node_prior(tree, torch.tensor([1]), recalled([[7, 20]]), torch.tensor([[3.0, 1.0]]))
    assert float(prior.table[0, tree.leaf[1, 7]]) == pytest.approx(3.0, abs=1e-5)
    assert float(prior.table[0, tree.leaf[1, 20]]) == pytest.approx(1.0, abs=1e-5)
    assert not prior.table[0, tree.leaf[0]].any()
    assert float(tree.leaves[0]) == float(tree.leaves[1]) == ITEMS
