"""The trie against a set of tuples."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recrl.data.ragged import Ragged
from recrl.sids.trie import ROOT, Trie, build_trie

Row = tuple[int, ...]


@st.composite
def prefix_free(draw: st.DrawFn) -> list[Row]:
    """Rows of 1 to 4 tokens below 5, none a prefix of another; some repeat."""
    wanted = draw(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple), min_size=1, max_size=25))
    kept: list[Row] = []
    for row in wanted:
        if not any(row != other and row[: len(other)] == other[: len(row)] for other in kept):
            kept.append(row)
    return kept


def walk(trie: Trie, rows: list[Row]) -> list[int]:
    width = max(len(row) for row in rows)
    tokens = torch.tensor([list(row) + [0] * (width - len(row)) for row in rows])
    return trie.walk(tokens, torch.tensor([len(row) for row in rows])).tolist()


def build(rows: list[Row]) -> Trie:
    return build_trie(Ragged.from_lists(rows))


@settings(deadline=None)
@given(prefix_free())
def test_a_walk_along_a_row_ends_at_its_lowest_equal(rows: list[Row]) -> None:
    trie = build(rows)
    assert walk(trie, rows) == [rows.index(row) for row in rows]


@settings(deadline=None)
@given(prefix_free(), st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=5).map(tuple), min_size=1, max_size=20))
def test_what_is_no_row_is_refused(rows: list[Row], others: list[Row]) -> None:
    strange = [row for row in others if row not in rows] or [(9,)]
    assert walk(build(rows), strange) == [-1] * len(strange)


@settings(deadline=None)
@given(prefix_free())
def test_the_tables_hold_each_prefix_once_with_sorted_edges(rows: list[Row]) -> None:
    trie = build(rows)
    prefixes = {row[:length] for row in rows for length in range(len(row) + 1)}
    assert len(trie.start) == len(prefixes)
    assert len(trie.token) == len(prefixes) - 1
    for node in range(len(trie.start)):
        begin, count = int(trie.start[node]), int(trie.count[node])
        tokens = trie.token[begin : begin + count].tolist()
        assert tokens == sorted(set(tokens))
    assert trie.depth == max(len(row) for row in rows)
    for depth, fanout in enumerate(trie.fanout):
        inner = {row[:depth] for row in rows if len(row) > depth}
        children = [len({row[depth] for row in rows if row[:depth] == prefix and len(row) > depth}) for prefix in inner]
        assert fanout == max(children)


@settings(deadline=None)
@given(prefix_free())
def test_leaves_are_where_rows_end_and_equal_rows_share_one(rows: list[Row]) -> None:
    trie = build(rows)
    leaves = trie.leaf[0].tolist()
    assert all(trie.count[leaf] == 0 for leaf in leaves)
    for left, first in zip(rows, leaves, strict=True):
        for right, second in zip(rows, leaves, strict=True):
            assert (left == right) == (first == second)
    assert int((trie.item >= 0).sum()) == len(set(rows))


@settings(deadline=None)
@given(prefix_free(), st.data())
def test_a_prefix_of_another_row_is_refused(rows: list[Row], data: st.DataObject) -> None:
    row = data.draw(st.sampled_from(rows))
    longer = (*row, 0)
    with pytest.raises(ValueError, match="prefix"):
        build([*rows, longer])


@pytest.mark.parametrize("rows", [[], [()], [(1,), ()]])
def test_rows_without_tokens_are_refused(rows: list[Row]) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        build(rows)


def test_edges_of_a_batch_by_hand() -> None:
    trie = build([(7, 1), (3, 4), (3, 2), (5,)])
    edge, exists = trie.edges(torch.tensor([[ROOT, 1]]), 4)  # node 1 is behind token 3, the lowest
    assert exists.tolist() == [[[True, True, True, False], [True, True, False, False]]]
    assert trie.token[edge][0, 0, :3].tolist() == [3, 5, 7]
    assert trie.token[edge][0, 1, :2].tolist() == [2, 4]


def test_a_step_follows_an_edge_or_leads_nowhere() -> None:
    trie = build([(3, 4), (3, 2), (5,)])

    def step(node: int, token: int) -> Tensor:
        return trie.step(torch.tensor(node), torch.tensor(token))

    at_three = step(ROOT, 3)
    assert trie.item[step(int(at_three), 4)] == 0
    assert trie.item[step(int(at_three), 2)] == 1
    assert step(ROOT, 4) == -1
    assert step(-1, 3) == -1
    assert step(int(step(ROOT, 5)), 5) == -1  # nothing follows a leaf


@settings(deadline=None)
@given(prefix_free())
def test_the_path_to_a_row_spells_it_and_walks_down_its_nodes(rows: list[Row]) -> None:
    trie = build(rows)
    tokens, nodes = trie.paths(torch.arange(len(rows)))
    for row, path, places in zip(rows, tokens.tolist(), nodes.tolist(), strict=True):
        assert path == list(row) + [-1] * (trie.depth - len(row))
        node = torch.tensor(ROOT)
        for token, place in zip(row, places, strict=False):
            assert place == int(node)
            node = trie.step(node, torch.tensor(token))
        assert places[len(row) :] == [-1] * (trie.depth - len(row))


def two_roots() -> Trie:
    """Three items, spelled by two codes below the first root and by words of one to three below the second."""
    codes = Ragged.from_lists([[5, 1], [5, 2], [6, 1]])
    words = Ragged.from_lists([[9, 9, 3], [5, 3], [9, 9, 3]])
    return build_trie(codes, words)


def test_every_root_has_its_own_paths_to_the_items() -> None:
    trie = two_roots()
    assert trie.roots == 2
    assert trie.depth == 3
    items = torch.arange(3)
    tokens, nodes = trie.paths(items)
    assert tokens.tolist() == [[5, 1, -1], [5, 2, -1], [6, 1, -1]]
    assert (nodes[:, 0] == 0).all()
    tokens, nodes = trie.paths(items, root=1)
    assert tokens.tolist() == [[9, 9, 3], [5, 3, -1], [9, 9, 3]]
    assert (nodes[:, 0] == 1).all()
    assert trie.item[trie.leaf[0]].tolist() == [0, 1, 2]
    assert trie.item[trie.leaf[1]].tolist() == [0, 1, 0]  # equal rows: the lowest item
    mixed, _ = trie.paths(torch.tensor([2, 1]), torch.tensor([0, 1]))
    assert mixed.tolist() == [[6, 1, -1], [5, 3, -1]]


def test_levels_and_roots_of_every_node() -> None:
    trie = two_roots()
    for root in range(2):
        for item in range(3):
            tokens, nodes = trie.paths(torch.tensor(item), root)
            inside = nodes[nodes >= 0]
            assert trie.level[inside].tolist() == list(range(len(inside)))
            leaf = trie.leaf[root, item]
            assert int(trie.level[leaf]) == int((tokens >= 0).sum())
            assert (trie.root[torch.cat([inside, leaf[None]])] == root).all()


@st.composite
def two_kinds(draw: st.DrawFn) -> tuple[list[Row], list[Row]]:
    """Two prefix-free lists of as many rows; a row of one may be one of the other, or its prefix."""
    first, second = draw(prefix_free()), draw(prefix_free())
    size = draw(st.integers(1, 25))
    return [first[i % len(first)] for i in range(size)], [second[-1 - i % len(second)] for i in range(size)]


@settings(deadline=None)
@given(two_kinds())
def test_the_lowest_of_equal_rows_is_named_below_every_root(kinds: tuple[list[Row], list[Row]]) -> None:
    trie = build_trie(*map(Ragged.from_lists, kinds))
    for root, rows in enumerate(kinds):
        assert trie.item[trie.leaf[root]].tolist() == [rows.index(row) for row in rows]
        for row, leaf in zip(rows, trie.leaf[root].tolist(), strict=True):
            node = torch.tensor(root)
            for token in row:
                node = trie.step(node, torch.tensor(token))
            assert int(node) == leaf
    assert int((trie.item >= 0).sum()) == sum(len(set(rows)) for rows in kinds)


@settings(deadline=None)
@given(two_kinds())
def test_nodes_know_their_root_level_and_parent(kinds: tuple[list[Row], list[Row]]) -> None:
    trie = build_trie(*map(Ragged.from_lists, kinds))
    roots = torch.tensor([0, 1])
    assert trie.parent[roots].tolist() == trie.root[roots].tolist() == [0, 1]
    assert trie.level[roots].tolist() == [0, 0]
    inner = (trie.count > 0).nonzero().squeeze(1)
    edge, exists = trie.edges(inner, int(trie.count.max()))
    children, above = trie.child(edge)[exists], inner.unsqueeze(1).expand_as(edge)[exists]
    assert sorted(children.tolist()) == list(range(2, len(trie.count)))
    assert torch.equal(trie.parent[children], above)
    assert torch.equal(trie.root[children], trie.root[above])
    assert torch.equal(trie.level[children], trie.level[above] + 1)


@settings(deadline=None)
@given(two_kinds())
def test_paths_below_each_root_spell_its_rows(kinds: tuple[list[Row], list[Row]]) -> None:
    trie = build_trie(*map(Ragged.from_lists, kinds))
    items = torch.arange(len(kinds[0]))
    tokens, nodes = trie.paths(torch.stack([items, items]), torch.tensor([[0], [1]]))
    for root, rows in enumerate(kinds):
        for item, row in enumerate(rows):
            length = len(row)
            assert tokens[root, item].tolist() == list(row) + [-1] * (trie.depth - length)
            walked = nodes[root, item, :length]
            assert trie.level[walked].tolist() == list(range(length))
            assert (trie.root[walked] == root).all()
            assert trie.parent[walked[1:]].tolist() == walked[:-1].tolist()
            assert (nodes[root, item, length:] == -1).all()


@settings(deadline=None)
@given(two_kinds(), st.integers(1, 3))
def test_no_node_that_a_step_may_meet_has_more_edges_than_the_widest(
    kinds: tuple[list[Row], list[Row]], slate_size: int
) -> None:
    trie = build_trie(*map(Ragged.from_lists, kinds))
    for step in range(trie.depth):
        met = trie.count if slate_size > 1 else trie.count[trie.level >= step]
        assert trie.widest(step, slate_size) == int(met.max())
    assert trie.widest(trie.depth * 2 - 1, 2) == int(trie.count.max())


def test_a_trie_on_a_device_is_the_same() -> None:
    trie = two_roots()
    again = trie.to(torch.device("cpu"))
    assert again.fanout == trie.fanout
    assert torch.equal(again.leaf, trie.leaf)
    assert torch.equal(again.root, trie.root)


def test_kinds_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="every response"):
        build_trie(Ragged.from_lists([(1,), (2,)]), Ragged.from_lists([(1,)]))


def test_the_widest_node_a_step_may_meet() -> None:
    trie = build([(1, 1), (1, 2), (1, 3), (2, 1)])
    assert trie.fanout == (2, 3)
    assert [trie.widest(step) for step in range(2)] == [3, 3]
    assert build([(1, 1), (2, 2), (3, 3)]).widest(1) == 1
    assert build([(1, 1), (2, 2), (3, 3)]).widest(1, slate_size=2) == 3


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_edges_among_some_items_are_those_that_lead_to_them(data: st.DataObject) -> None:
    rows = [
        rows_of_closed(data.draw(st.lists(st.lists(st.integers(1, 3), max_size=4), min_size=6, max_size=6)))
        for _ in range(2)
    ]
    trie = build_trie(*(Ragged.from_lists(part) for part in rows))
    pool = torch.tensor(
        data.draw(st.lists(st.lists(st.integers(-1, 5), min_size=3, max_size=3), min_size=4, max_size=4))
    )
    root = torch.tensor(data.draw(st.lists(st.integers(0, 1), min_size=4, max_size=4)))
    allowed = trie.allowed(pool, root)
    node = torch.arange(len(trie.count)).expand(4, -1)
    width = int(trie.count.max())
    edge, every = trie.edges(node, width)
    same, some = trie.edges(node, width, allowed)
    assert torch.equal(edge, same)
    for row, (items, kind) in enumerate(zip(pool.tolist(), root.tolist(), strict=True)):
        wanted = [tuple(rows[kind][item]) for item in items if item >= 0]
        if not wanted:
            assert torch.equal(some[row], every[row])
            continue
        leads = {word[: length + 1] for word in wanted for length in range(len(word))}
        spelled = [spelling(trie, int(to)) for to in trie.child(edge[row])[some[row]]]
        assert {word for _, word in spelled} == leads
        assert {begin for begin, _ in spelled} == {kind}
    swapped = allowed.of(torch.tensor([3, 0]))
    assert torch.equal(trie.edges(node[[3, 0]], width, swapped)[1], some[[3, 0]])


def rows_of_closed(words: list[list[int]]) -> list[list[int]]:
    """Words closed by a token that none holds, so that no word is the beginning of another."""
    return [[*word, 9] for word in words]


def spelling(trie: Trie, node: int) -> tuple[int, tuple[int, ...]]:
    """The root above a node and the tokens down to it."""
    tokens: list[int] = []
    while node >= trie.roots:
        tokens.append(int(trie.token[node - trie.roots]))
        node = int(trie.parent[node])
    return node, tuple(reversed(tokens))
