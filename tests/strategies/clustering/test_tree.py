"""The tree of cuts: who stands where after several of them, and who finds the way."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from protocol import NodeId
from strategies.clustering.coordinates import choose
from strategies.clustering.linkage import Cut, bipartition
from strategies.clustering.tree import Tree
from tests.strategies.clustering.comparing import LAYOUT, part_of, updates_of


def grown(count: int, seed: int = 0) -> tuple[Tree, dict[NodeId, int], Any, list[NodeId]]:
    """Four planted groups among non-contiguous ids, cut twice in a row; returns the tree and each id's group."""
    draws = np.random.default_rng(seed)
    ids: list[NodeId] = [int(i) for i in draws.permutation(10**6)[:count]]
    group = {node: int(g) for node, g in zip(ids, draws.integers(0, 4, count), strict=True)}
    corners = np.array([[1.0, 0.3], [1.0, -0.3], [-1.0, 0.3], [-1.0, -0.3]])
    full = part_of()

    def update(node: NodeId, seen: tuple[int, ...]) -> torch.Tensor:
        """What a member wants: where its group stands, less what its cluster agrees on."""
        towards = corners[group[node]] - corners[list(seen)].mean(0)
        own = np.random.default_rng([int(node), len(seen)]).normal(0, 0.02, LAYOUT.parameters)
        return torch.from_numpy((np.resize(towards, LAYOUT.parameters) + own).astype(np.float32))

    tree = Tree()
    sample = choose(LAYOUT, [full], 200, draws)
    clusters: dict[int, tuple[int, ...]] = {0: (0, 1, 2, 3)}
    for number in (0, 1, 2):
        seen = clusters[number]
        members = [node for node in ids if group[node] in seen]
        rows = np.stack([sample.read(full, update(node, seen))[0] for node in members])
        updates = updates_of(rows, members)
        cut = bipartition(members, updates.cosines())
        children = tree.cut(number, cut, updates, sample, torch.full((LAYOUT.parameters,), float(number)), number + 1)
        for child, side in zip(children, cut.groups, strict=True):
            clusters[child] = tuple(sorted({group[node] for node in side}))
    return tree, group, update, ids


def test_leaves_partition_the_ids_after_successive_cuts() -> None:
    tree, group, _, ids = grown(1100)
    assert len(tree.leaves) == 4
    assert not set(tree.leaves) & set(tree.splits)
    members = [tree.members(leaf) for leaf in tree.leaves]
    assert sorted(node for leaf in members for node in leaf) == sorted(ids)
    for leaf in members:
        assert len({group[node] for node in leaf}) == 1
    assert sum(map(len, members)) == len(ids)


def test_the_walk_leads_members_to_their_own_leaf_and_newcomers_to_their_group_s() -> None:
    tree, group, update, ids = grown(60)
    full = part_of()
    for leaf in tree.leaves:
        path = tree.path(leaf)
        assert (path[0], path[-1]) == (0, leaf)
        assert all(child in tree.splits[parent].children for parent, child in pairwise(path))
    leaf_of = {group[node]: tree.place(node) for node in ids}
    strangers: list[NodeId] = [10**7 + i for i in range(8)]
    group.update({node: i % 4 for i, node in enumerate(strangers)})
    for node in (*ids, *strangers):
        seen: tuple[int, ...] = (0, 1, 2, 3)
        place = 0
        while place in tree.splits:
            side = tree.splits[place].side_of(full, update(node, seen))
            assert side is not None
            place = tree.splits[place].children[side]
            seen = tuple(
                sorted(
                    {group[other] for other in ids if tree.place(other) == place}
                    or {group[other] for other in ids if _below(tree, place, tree.place(other))}
                )
            )
        assert place == leaf_of[group[node]]


def _below(tree: Tree, top: int, place: int) -> bool:
    return place == top or (
        top in tree.splits and any(_below(tree, child, place) for child in tree.splits[top].children)
    )


def test_only_leaves_are_cut_and_only_between_those_who_stand_there() -> None:
    tree, _, _, ids = grown(40)
    updates = updates_of(np.ones((2, 200)), [ids[0], ids[1]])
    sample = choose(LAYOUT, [part_of()], 200, np.random.default_rng(0))
    for number, who in ((0, ids[:2]), (tree.leaves[0], [-1, -2])):
        with pytest.raises(ValueError, match=f"cluster {number} cannot be cut"):
            tree.cut(number, Cut(((who[0],), (who[1],)), 0, 1), updates, sample, torch.zeros(1), 9)


def test_a_tree_comes_back_from_its_checkpoint() -> None:
    tree, _, update, ids = grown(30)
    tensors, values = tree.checkpoint()
    again = Tree()
    again.restore(LAYOUT, tensors, values)
    assert again.places == tree.places
    assert again.leaves == tree.leaves
    for number, cut in tree.splits.items():
        other = again.splits[number]
        assert torch.equal(cut.model, other.model)
        assert (cut.round_number, cut.children, dict(cut.sides)) == (other.round_number, other.children, other.sides)
        for node in ids[:5]:
            difference = update(node, (0, 1, 2, 3))
            assert cut.side_of(part_of(), difference) == other.side_of(part_of(), difference)
