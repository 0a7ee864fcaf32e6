"""CFL's parts by themselves: the cut, the norms and cosines, the coordinates, the three tests, the tree."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.algebra.plans import Plan
from models.algebra.submodel import Submodel, flatten, split
from models.errors import SettingError
from models.networks.build import layout, submodel
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from protocol import NodeId
from protocol.codecs import NOTHING, CodecSettings, codec_of
from strategies.clustering.coordinates import Sample, choose
from strategies.clustering.linkage import Cut, Matrix, bipartition
from strategies.clustering.split import SplitRule, judge
from strategies.clustering.tree import Tree
from strategies.clustering.updates import Updates, cosines_with

SPEC = completed(NetworkSpec("mlp", (1, 4, 4), 5, widths=(12, 8), norm="none"))
LAYOUT = layout(SPEC)


def symmetric(draws: np.random.Generator, count: int) -> Matrix:
    half = np.triu(draws.uniform(-1, 1, (count, count)), 1)
    return half + half.T + np.eye(count)


def best_cross(matrix: Matrix) -> float:
    """The smallest α_cross^max of all bipartitions, by trying them."""
    count = len(matrix)
    found = []
    for size in range(1, count // 2 + 1):
        for chosen in combinations(range(count), size):
            first = np.isin(np.arange(count), chosen)
            found.append(matrix[np.ix_(first, ~first)].max())
    return float(min(found))


def updates_of(values: Any, members: list[NodeId] | None = None, held: Any = None, weights: Any = None) -> Updates:
    rows = np.asarray(values, np.float32)
    ids = list(range(len(rows))) if members is None else members
    return Updates(
        members=ids,
        values=rows,
        held=held,
        weights=np.ones(len(rows)) if weights is None else np.asarray(weights, float),
    )


# ---- the cut ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 10), st.integers(0, 10**6))
def test_single_linkage_is_brute_force(count: int, seed: int) -> None:
    draws = np.random.default_rng(seed)
    matrix = symmetric(draws, count)
    ids = [int(i) for i in draws.permutation(5000)[:count]]
    cut = bipartition(ids, matrix)
    first = np.isin(ids, cut.groups[0])
    assert cut.cross == best_cross(matrix) == matrix[np.ix_(first, ~first)].max()
    pairs = [(i, j) for i, j in combinations(range(count), 2) if first[i] == first[j]]
    assert cut.intra == (min(matrix[pair] for pair in pairs) if pairs else 1.0)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 10), st.integers(0, 10**6), st.sampled_from(["single", "complete"]))
def test_the_groups_are_of_ids_and_do_not_depend_on_their_order(count: int, seed: int, linkage: str) -> None:
    draws = np.random.default_rng(seed)
    matrix, ids = symmetric(draws, count), [f"phone {i}" for i in draws.permutation(999)[:count]]
    cut = bipartition(ids, matrix, linkage)
    assert ids[0] in cut.groups[0]
    assert sorted([*cut.groups[0], *cut.groups[1]]) == sorted(ids)
    assert min(map(len, cut.groups)) >= 1
    order = draws.permutation(count)
    again = bipartition([ids[i] for i in order], matrix[np.ix_(order, order)], linkage)
    assert set(map(frozenset, cut.groups)) == set(map(frozenset, again.groups))


def test_complete_linkage_is_the_textbook_rule_and_not_the_optimum() -> None:
    missed = 0
    for seed in range(60):
        matrix = symmetric(np.random.default_rng(seed), 7)
        groups: list[list[int]] = [[i] for i in range(7)]
        while len(groups) > 2:
            closest = max(combinations(groups, 2), key=lambda pair: min(matrix[i, j] for i in pair[0] for j in pair[1]))
            groups = [group for group in groups if group not in closest] + [closest[0] + closest[1]]
        cut = bipartition(list(range(7)), matrix, "complete")
        assert set(map(frozenset, cut.groups)) == set(map(frozenset, groups))
        missed += cut.cross > best_cross(matrix)
    assert missed > 30  # why single linkage is the default


@pytest.mark.parametrize("linkage", ["single", "complete"])
def test_planted_groups_are_found_among_more_than_a_thousand(linkage: str) -> None:
    draws = np.random.default_rng(3)
    ids = [int(i) for i in draws.permutation(10**6)[:1200]]
    group = draws.integers(0, 2, 1200)
    centres = np.stack([np.ones(40), -np.ones(40)])
    values = centres[group] + draws.normal(0, 0.5, (1200, 40))
    cut = bipartition(ids, updates_of(values, list(ids)).cosines(), linkage)
    expected = frozenset(i for i, g in zip(ids, group, strict=True) if g == group[0])
    assert frozenset(cut.groups[0]) == expected
    assert cut.cross < 0 < cut.intra


@pytest.mark.parametrize("matrix", [np.eye(1), np.eye(3), np.full((2, 2), np.nan), np.ones((2, 3))])
def test_matrices_that_are_none(matrix: Matrix) -> None:
    members = [1] if len(matrix) == 1 else [1, 2]
    with pytest.raises(ValueError, match="finite similarities"):
        bipartition(members, matrix)
    with pytest.raises(SettingError, match="cfl-linkage = 'average': allowed is one of single, complete"):
        bipartition([1, 2], np.eye(2), "average")


# ---- norms and cosines -----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 6), st.integers(1, 9000), st.integers(0, 10**6), st.booleans())
def test_norms_and_cosines_are_a_plain_loop_s(count: int, size: int, seed: int, whole: bool) -> None:
    draws = np.random.default_rng(seed)
    held = np.ones((count, size), bool) if whole else draws.random((count, size)) < 0.7
    values = np.where(held, draws.normal(size=(count, size)), 0).astype(np.float32)
    weights = draws.uniform(1, 9, count)
    updates = updates_of(values, held=None if whole else held, weights=weights)
    cosines, norms = updates.cosines(), updates.norms()
    wide = values.astype(float)
    for i in range(count):
        mine = wide[i][held[i]]
        assert norms[i] == pytest.approx(np.sqrt(np.mean(mine**2)) if len(mine) else 0)
        others = cosines_with(values, updates.held, values[i], held[i])
        for j in range(count):
            both = held[i] & held[j]
            a, b = wide[i][both], wide[j][both]
            few = both.sum() < min(1024, held[i].sum() / 2, held[j].sum() / 2)
            if few or not a.any() or not b.any():
                assert np.isnan(cosines[i, j])
                assert np.isnan(others[j])
            else:
                assert cosines[i, j] == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)), abs=1e-9)
                assert others[j] == pytest.approx(cosines[i, j], abs=1e-9)
    held_weights = weights @ held
    some = held_weights > 0
    mean = (weights @ wide)[some] / held_weights[some]
    assert updates.mean_norm() == pytest.approx(np.sqrt(np.mean(mean**2)) if some.any() else 0)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6))
def test_cosines_know_neither_a_shared_rotation_nor_anybody_s_scale(seed: int) -> None:
    draws = np.random.default_rng(seed)
    values = draws.normal(size=(5, 30))
    plain = updates_of(values).cosines()
    permuted = updates_of(values[:, draws.permutation(30)]).cosines()
    turned = updates_of(values @ np.linalg.qr(draws.normal(size=(30, 30)))[0]).cosines()
    scaled = updates_of(values * draws.uniform(0.01, 100, (5, 1))).cosines()
    for other in (permuted, turned, scaled):
        assert np.allclose(plain, other, atol=1e-5)


@pytest.mark.parametrize("levels", [1, 7])
def test_a_quantiser_s_noise_changes_neither_norms_nor_cosines(levels: int) -> None:
    """Two opposed groups of three: as they arrive, quantised updates look longer, and all but orthogonal."""
    draws, size = np.random.default_rng(3), 40_000
    pull = draws.normal(size=size)
    exact = np.stack([(-1) ** (i % 2) * pull + draws.normal(size=size) for i in range(6)]).astype(np.float32)
    codec = codec_of(CodecSettings("qsgd", levels=levels))
    quantised = np.stack(
        [
            codec.decode(codec.encode(torch.from_numpy(row), [size], draws, NOTHING), [size], NOTHING).flat.numpy()
            for row in exact
        ]
    )
    true, raw = updates_of(exact), updates_of(quantised)
    found = replace(raw, shares=true.norms() / raw.norms())
    apart = ~np.eye(6, dtype=bool)
    np.testing.assert_allclose(found.cosines()[apart], true.cosines()[apart], atol=0.3 if levels == 1 else 0.05)
    assert abs(found.cosines()[apart] - true.cosines()[apart]).mean() < 0.15
    assert abs(raw.cosines()[apart]).max() < 0.75 * abs(true.cosines()[apart]).min()
    np.testing.assert_allclose(found.norms(), true.norms(), rtol=1e-6)
    assert found.mean_norm() == pytest.approx(true.mean_norm(), rel=0.15)
    assert raw.mean_norm() > 1.1 * true.mean_norm()
    verdict = judge(found, SplitRule(mean_norm=9.0, largest_norm=0.0, gamma=0.72), 1.0)
    assert verdict.cut is not None
    assert sorted(map(sorted, verdict.cut.groups)) == [[0, 2, 4], [1, 3, 5]]
    assert verdict.accepted


# ---- coordinates -----------------------------------------------------------------------------------------------------


def part_of(**plan: Any) -> Submodel:
    return submodel(SPEC, Plan(**plan))


def scattered(part: Submodel, difference: torch.Tensor) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """An update in its places in the flat state, and which places those are, by the average's own route: gather."""
    places = split(torch.arange(float(LAYOUT.parameters)), {n: t.shape for n, t in LAYOUT.tensors.items()})
    where = flatten(part.gather(places)).long().numpy()
    values, held = np.zeros(LAYOUT.parameters, np.float32), np.zeros(LAYOUT.parameters, bool)
    values[where], held[where] = difference.numpy(), True
    return values, held


PARTS = [
    part_of(),
    part_of(rate=Fraction(1, 2)),
    part_of(rate=Fraction(1, 4), shift=10),
    part_of(rate=Fraction(1, 2), units=(("hidden1", (1, 4, 5, 11)), ("hidden2", (0, 7)))),
]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 3), st.integers(0, 10**6), st.integers(1, 300))
def test_a_sample_reads_what_stands_in_the_state(which: int, seed: int, size: int) -> None:
    draws = np.random.default_rng(seed)
    places = np.sort(draws.choice(LAYOUT.parameters, size, replace=False))
    difference = torch.from_numpy(draws.normal(size=PARTS[which].numel).astype(np.float32))
    values, held = Sample(LAYOUT, places).read(PARTS[which], difference)
    expected, there = scattered(PARTS[which], difference)
    assert np.array_equal(values, expected[places])
    assert np.array_equal(held, there[places])


def test_nested_parts_are_compared_on_the_smallest_and_draws_on_everything() -> None:
    draws = np.random.default_rng(0)
    nested = [part_of(rate=Fraction(1, n)) for n in (4, 1, 2)]
    _, smallest = scattered(nested[0], torch.zeros(nested[0].numel))
    assert np.array_equal(choose(LAYOUT, nested, 10**6, draws).places, np.flatnonzero(smallest))
    few = choose(LAYOUT, nested, 20, draws).places
    assert len(few) == 20
    assert set(few) <= set(np.flatnonzero(smallest))
    drawn = [part_of(units=(("hidden1", tuple(range(i, i + 3))), ("hidden2", (i, i + 1)))) for i in (0, 3, 6)]
    assert len(choose(LAYOUT, drawn, 10**6, draws).places) == LAYOUT.parameters
    assert len(choose(LAYOUT, drawn, 50, draws).places) == 50


def test_a_sample_s_cosines_are_near_the_exact_ones() -> None:
    draws = np.random.default_rng(1)
    shared = draws.normal(size=20_000)
    exact = np.stack([shared + draws.normal(size=20_000) for _ in range(4)])
    sampled = exact[:, draws.choice(20_000, 4096, replace=False)]
    assert np.abs(updates_of(exact).cosines() - updates_of(sampled).cosines()).max() < 4 / np.sqrt(4096)


# ---- the three tests -------------------------------------------------------------------------------------------------

OPPOSED = np.array([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-1.0, 0.12]])


def test_two_opposed_groups_are_cut() -> None:
    verdict = judge(updates_of(OPPOSED, [70, 30, 50, 10]), SplitRule(), 1.0)
    assert verdict.accepted
    assert verdict.cut is not None
    assert verdict.cut.groups == ((70, 30), (50, 10))
    assert verdict.mean < 0.35 < 0.5 < verdict.largest
    assert -1 <= verdict.cut.cross < -0.9 < 0.9 < verdict.cut.intra <= 1


@pytest.mark.parametrize(
    ("rule", "values"),
    [
        (SplitRule(mean_norm=0), OPPOSED),  # nothing is below 0
        (SplitRule(mean_norm=0), OPPOSED * np.array([[1], [-1], [1], [-1]])),
        (SplitRule(largest_norm=0.75), OPPOSED),  # the members' root mean squares are 0.71
        (SplitRule(gamma=1), OPPOSED),
        (SplitRule(), OPPOSED + 1),  # still moving
        (SplitRule(), OPPOSED[1:3]),  # two members
        (SplitRule(), OPPOSED * np.array([[1], [1], [0], [0]])),  # and two that do not move
        (SplitRule(gamma=0.8), np.array([[1, 0, 0, 0], [0, 1, 0, 0], [-1, 0, 1, 0], [0, -1, -1, 0.0]])),
    ],
)
def test_what_is_not_cut(rule: SplitRule, values: Any) -> None:
    assert not judge(updates_of(values), rule, 1.0).accepted


def test_the_noise_bound_is_the_paper_s() -> None:
    """γ < √((1 − α_cross)/2), whatever α_cross."""
    values = np.array([[1.0, 0.4], [1.0, -0.4], [-1.0, 0.8], [-1.0, -0.8]])
    cross = judge(updates_of(values), SplitRule(mean_norm=9), 1.0).cut
    assert cross is not None
    bound = np.sqrt((1 - cross.cross) / 2)
    for gamma in (bound - 0.01, bound + 0.01):
        assert judge(updates_of(values), SplitRule(mean_norm=9, largest_norm=0, gamma=min(gamma, 1)), 1.0).accepted == (
            gamma < bound
        )


def test_thresholds_are_relative() -> None:
    for scale in (1e-6, 1.0, 1e6):
        assert judge(updates_of(OPPOSED * scale), SplitRule(), scale).accepted


def test_a_zero_update_is_left_out_and_a_pair_that_shares_nothing_stops_the_cut() -> None:
    verdict = judge(updates_of([*OPPOSED, [0, 0]]), SplitRule(), 1.0)
    assert verdict.accepted
    assert verdict.cut is not None
    assert verdict.cut.groups == ((0, 1), (2, 3))
    held = np.array([[True, False], [True, True], [True, True], [False, True]])
    assert judge(updates_of(OPPOSED * held, held=held), SplitRule(), 1.0).cut is None


def test_members_that_share_few_coordinates_are_not_compared() -> None:
    draws = np.random.default_rng(0)
    for size, both, known in ((100, 40, False), (100, 50, True), (4000, 1023, False), (4000, 1024, True)):
        held = np.ones((2, 2 * size - both), bool)
        held[0, size:] = held[1, : size - both] = False
        values = np.where(held, draws.normal(size=held.shape), 0)
        assert np.isfinite(updates_of(values, held=held).cosines()[0, 1]) == known
        one, rows = values[1].astype(np.float32), values.astype(np.float32)
        assert np.isfinite(cosines_with(rows, held, one, held[1])[0]) == known


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"mean_norm": -0.1}, "cfl-mean-norm = -0.1: allowed is 0 or more"),
        ({"largest_norm": float("nan")}, "cfl-largest-norm = nan"),
        ({"gamma": 1.1}, "cfl-gamma = 1.1: allowed is 0 to 1"),
        ({"linkage": "ward"}, "cfl-linkage = 'ward'"),
    ],
)
def test_thresholds_that_are_none(keys: Any, named: str) -> None:
    with pytest.raises(SettingError, match=named):
        SplitRule(**keys)


# ---- the tree --------------------------------------------------------------------------------------------------------


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
