"""DivFL: whose vectors, when, and what replies then count; vectors of unlike submodels; the table of nodes."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.algebra.plans import Plan
from models.algebra.submodel import split
from models.errors import SettingError
from models.networks.build import layout, submodel
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from strategies import Settings
from strategies.nodes.history import COLUMNS, NodeHistory
from strategies.round.selection import SelectionRunner
from strategies.selection import Candidates, DivFL
from strategies.selection.facility import distances, lazy, represented
from strategies.selection.update_sketch import UpdateSketcher
from tests.strategies.selection.test_rules import Told, choose

NODES = [4 + 9 * i for i in range(1100)]
SPEC = completed(NetworkSpec("cnn", (1, 8, 8), 10, widths=(8, 12, 16, 20), norm="group"))
PLANS = [Plan(), Plan(Fraction(1, 2)), Plan(Fraction(1, 4)), Plan(Fraction(1, 2), shift=5)]


def vectors(seed: int, count: int = len(NODES), size: int = 6) -> Any:
    return np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)


# ---- who is chosen ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["lazy", "greedy"])
def test_those_that_stand_for_everybody(algorithm: str) -> None:
    """Nothing is asked, and the ids are those of the picked positions."""
    known = vectors(1)
    candidates = Candidates.of(NODES, vectors=known, selected=1)
    chosen = choose(DivFL(algorithm=algorithm), candidates, 25)
    picked = lazy(distances(known), 25)
    assert list(chosen.nodes) == [NODES[i] for i in picked]
    assert chosen.weights == tuple(represented(distances(known), picked).tolist())
    assert sum(chosen.weights) == len(NODES)


def test_the_three_weights() -> None:
    candidates = Candidates.of(NODES, vectors=vectors(1), examples=np.arange(1100) + 1, selected=1)
    gamma, plain, size = (choose(DivFL(weights=kind), candidates, 9) for kind in ("gamma", "plain", "size"))
    assert gamma.nodes == plain.nodes == size.nodes
    assert gamma.weights is not None
    assert sum(gamma.weights) == 1100
    assert plain.weights is None
    assert size.weights == tuple(float(NODES.index(int(node)) + 1) for node in size.nodes)


def test_without_probes_who_was_never_seen_goes_first() -> None:
    known = vectors(2, 100)
    known[30:] = np.nan
    selected = np.where(np.arange(100) < 30, 1, 0)
    first = choose(DivFL(), Candidates.of(range(100), vectors=known, selected=selected), 50)
    assert min(int(node) for node in first.nodes) >= 30
    assert first.weights == (1.0,) * 50
    known[40:] = vectors(3, 60)
    selected[:] = 1
    selected[30:34] = 0  # 30 to 33 are new, 34 to 39 were chosen and never answered
    later = choose(DivFL(), Candidates.of(range(100), vectors=known, selected=selected), 20)
    assert later.weights is not None
    assert {int(node) for node in later.nodes[:4]} == {30, 31, 32, 33}
    assert not {34, 35, 36, 37, 38, 39} & {int(node) for node in later.nodes}
    assert sum(later.weights) == 4 + 90
    everybody = choose(DivFL(), Candidates.of(range(100), vectors=known, selected=selected), 100)
    assert sorted(map(int, everybody.nodes)) == list(range(100))


def test_everyone_is_asked_every_round() -> None:
    fresh, stale = vectors(4, 200), vectors(5, 200)
    probe = Told(gradients=fresh)
    chosen = choose(DivFL(refresh="everyone"), Candidates.of(range(200), vectors=stale, selected=1), 10, probe=probe)
    assert [asked for _, asked, *_ in probe.asked] == [list(range(200))]
    assert list(chosen.nodes) == lazy(distances(fresh), 10).tolist()


def test_participants_are_asked_once_and_then_when_they_are_chosen() -> None:
    gradients, rule = vectors(6, 200), DivFL(refresh="participants")
    first = Told(gradients=gradients)
    unknown = np.full((200, 6), np.nan)
    chosen = choose(rule, Candidates.of(range(200), vectors=unknown), 10, probe=first)
    assert [asked for _, asked, *_ in first.asked] == [list(range(200))]
    later = Told(gradients=gradients)
    again = choose(rule, Candidates.of(range(200), vectors=gradients, selected=1), 10, 2, later)
    assert again == chosen
    assert [asked for _, asked, *_ in later.asked] == [list(again.nodes)]
    newcomer = gradients.copy()
    newcomer[150] = np.nan
    probe = Told(gradients=gradients)
    choose(rule, Candidates.of(range(200), vectors=newcomer, selected=1), 10, 2, probe)
    assert probe.asked[0][1] == [150]


def test_who_does_not_answer_is_left_for_the_end() -> None:
    gradients = vectors(7, 50)
    gradients[10:20] = np.nan
    candidates = Candidates.of(range(50), vectors=np.full((50, 6), np.nan))
    chosen = choose(DivFL(refresh="everyone"), candidates, 40, probe=Told(gradients=gradients))
    assert not set(range(10, 20)) & {int(node) for node in chosen.nodes}
    assert len(choose(DivFL(refresh="everyone"), candidates, 45, probe=Told(gradients=gradients)).nodes) == 45


def test_a_sample_of_everybody_is_greedy() -> None:
    candidates = Candidates.of(range(300), vectors=vectors(8, 300), selected=1)
    assert choose(DivFL(algorithm="stochastic", sample=300), candidates, 12) == choose(DivFL(), candidates, 12)
    assert choose(DivFL(algorithm="stochastic"), candidates, 12, 1) != choose(
        DivFL(algorithm="stochastic"), candidates, 12, 2
    )


def test_what_does_not_fit() -> None:
    DivFL().check(10, 10_000)
    with pytest.raises(SettingError, match=r"selection = 'divfl'.*10,000 nodes"):
        DivFL().check(10, 10_001)
    with pytest.raises(SettingError, match=r"divfl-vectors = 'all': allowed is projected.*2 GiB"):
        SelectionRunner(
            Settings(nodes=9000, selector=DivFL(kind="all")), layout(completed(NetworkSpec("cnn", (3, 32, 32), 10)))
        )


# ---- vectors ---------------------------------------------------------------------------------------------------------


def in_the_whole(plan: Plan, difference: torch.Tensor) -> torch.Tensor:
    """The same difference with the coordinates of the full network, 0 where the part has none."""
    declared = layout(SPEC)
    shapes = declared.shapes
    places = submodel(SPEC, plan).gather(split(torch.arange(declared.parameters), shapes))
    whole = torch.zeros(declared.parameters)
    whole[torch.cat([part.reshape(-1) for part in places.values()])] = difference
    return whole


def whole_numbers(plan: Plan, seed: int) -> torch.Tensor:
    return torch.randint(-50, 50, (submodel(SPEC, plan).numel,), generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("kind", ["projected", "last-layer", "all"])
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_part_has_the_vector_of_its_place_in_the_whole(kind: str, plan: Plan) -> None:
    make = UpdateSketcher(layout(SPEC), kind, 32, 1)
    difference = whole_numbers(plan, 1)  # sums of whole numbers do not round
    found = make.vector(submodel(SPEC, plan), difference)
    whole = in_the_whole(plan, difference)
    assert found.shape == (make.size,)
    assert found.tolist() == make.vector(submodel(SPEC, Plan()), whole).tolist()
    if kind == "all":
        assert found.tolist() == whole.tolist()
    if kind == "last-layer":
        assert make.size == 20 * 10 + 10
        assert found.tolist() == whole[-make.size :].tolist()


def test_the_sketch_is_linear_and_its_own() -> None:
    part, make = submodel(SPEC, Plan()), UpdateSketcher(layout(SPEC), "projected", 64, 1)
    x, y = whole_numbers(Plan(), 1), whole_numbers(Plan(), 2)
    assert (make.vector(part, x + 3 * y) == make.vector(part, x) + 3 * make.vector(part, y)).all()
    assert (make.vector(part, x) == UpdateSketcher(layout(SPEC), "projected", 64, 1).vector(part, x)).all()
    assert (make.vector(part, x) != UpdateSketcher(layout(SPEC), "projected", 64, 2).vector(part, x)).any()


def test_the_sketch_keeps_inner_products_on_average() -> None:
    """E⟨Sx, Sy⟩ = ⟨x, y⟩ with variance (‖x‖²‖y‖² + ⟨x, y⟩²)/size at most, also between different tiers."""
    size, seeds = 64, 400
    x, y = whole_numbers(Plan(), 3), whole_numbers(PLANS[1], 4)
    y = y + x[: len(y)] / 4
    whole = in_the_whole(PLANS[1], y)
    exact = float(x.double() @ whole.double())
    found = []
    for seed in range(seeds):
        make = UpdateSketcher(layout(SPEC), "projected", size, seed)
        one, other = make.vector(submodel(SPEC, Plan()), x), make.vector(submodel(SPEC, PLANS[1]), y)
        found.append(float(one.astype(float) @ other.astype(float)))
    bound = float((x.double() @ x.double()) * (whole.double() @ whole.double()) + exact**2) / size
    assert abs(np.mean(found) - exact) < 4.5 * (bound / seeds) ** 0.5
    assert np.var(found) < 1.4 * bound


def test_the_sketch_keeps_distances() -> None:
    draws = torch.Generator().manual_seed(5)
    make, part = UpdateSketcher(layout(SPEC), "projected", 256, 1), submodel(SPEC, Plan())
    raw = torch.randn(12, part.numel, generator=draws)
    sketched = distances(np.array([make.vector(part, row) for row in raw]))
    exact = distances(raw.numpy())
    off = ~np.eye(12, dtype=bool)
    assert np.abs(sketched[off] / exact[off] - 1).max() < 4 * (1 / (2 * 256)) ** 0.5


# ---- the table -------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.integers(-9, 400), st.text(max_size=3)), unique=True, max_size=60), st.integers(0, 3))
def test_the_table_outlives_a_server_bit_for_bit(nodes: list[int | str], size: int) -> None:
    table = NodeHistory(size)
    for i, node in enumerate(nodes):
        table.learn(node, i, i % 3, {"loss": i / 7, "seconds": 0.1 * i})
        table.vectors[table.row(node)] = i / 3
        table.column("selected")[table.row(node)] += 1
    tensors, ids = table.checkpoint()
    other = NodeHistory(size)
    other.row("somebody who said hello before")
    other.restore(tensors, ids)
    assert len(table) == len(nodes)
    for node in nodes:
        for name in COLUMNS:
            was, now = table.column(name)[table.row(node)], other.column(name)[other.row(node)]
            assert was == now or (np.isnan(was) and np.isnan(now))
        assert (table.vectors[table.row(node)] == other.vectors[other.row(node)]).all()


def test_what_a_reply_does_not_say_is_unknown() -> None:
    table = NodeHistory()
    table.learn(5, 3, 1, {"loss": 0.5, "loss-square": 0.3, "seconds": 2.0, "steps": 7.0})
    table.learn(5, 4, 2, {"loss": 0.25})
    row = {name: table.column(name)[table.row(5)] for name in COLUMNS}
    assert (row["loss"], row["round"], row["tier"]) == (0.25, 4, 2)
    assert all(np.isnan(row[name]) for name in ("loss_square", "seconds", "steps"))


def test_a_new_node_is_unknown_whoever_was_there_before() -> None:
    table = NodeHistory(2)
    for node in range(100):
        table.learn(node, 1, 0, {"loss": 1.0})
        fresh = table.row(1000 + node)
        assert np.isnan(table.column("loss")[fresh])
        assert table.column("selected")[fresh] == 0
        assert np.isnan(table.vectors[fresh]).all()
    assert (table.column("loss")[[table.row(node) for node in range(100)]] == 1.0).all()
