"""IFCA through the in-process grid: what it has to equal, what has to stay, what crosses the wire."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from flwr.app import ArrayRecord, Message, RecordDict
from torch import Tensor

from client_app.app import app
from data.synthetic_groups import group_of
from flotilla.local.grid import LocalGrid, contexts
from models.algebra.axes import Layout
from models.algebra.submodel import flatten, shapes_of
from models.errors import SettingError
from models.networks.build import layout
from models.variants.cluster_states import pack_states, packed_length, trunk, unpack_states
from protocol import LOSSES, ClusterStates, Objective, TrainRequest, bytes_of, read_request
from server_app.config.resolve import RunConfig
from strategies import FlowerStrategy
from strategies.clustering.base import initial_purpose
from strategies.round.requests import loss_request
from tests.support import Player, configured, failed, trains

Tensors = dict[str, Tensor]
ONE: dict[str, Any] = {"method": "fedavg", "tiers": "a:1", "widths": "12", "num_clients": 6, "batch_size": 64}


def started(states: Sequence[Tensors] = (), **keys: Any) -> tuple[FlowerStrategy, LocalGrid, RunConfig]:
    """A strategy with the given states, and its nodes."""
    config = configured(**{**ONE, **keys})
    strategy = config.strategy()
    for i, state in enumerate(states):
        for name, tensor in state.items():
            strategy.runner.pieces.clusters.states[i].tensors[name].copy_(tensor)
    return strategy, LocalGrid(app, contexts(config.flat, config.num_clients)), config


def states_of(strategy: FlowerStrategy) -> list[Tensors]:
    return [
        {n: t.clone() for n, t in state.tensors.items()} for state in strategy.runner.pieces.clusters.states.values()
    ]


def drawn(count: int, **keys: Any) -> list[Tensors]:
    """The states that a run with so many clusters begins with."""
    return states_of(started(clustering="ifca", ifca_clusters=count, **keys)[0])


def after(states: Sequence[Tensors], rounds: int = 2, **keys: Any) -> tuple[list[Tensors], FlowerStrategy]:
    """The states after some rounds of IFCA, and the strategy."""
    strategy, grid, _ = started(states, clustering="ifca", ifca_clusters=len(states), **keys)
    for number in range(1, rounds + 1):
        strategy.run_round(grid, number)
    return states_of(strategy), strategy


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def members(strategy: FlowerStrategy) -> list[list[Any]]:
    return [list(ids) for ids in strategy.report.clusters["assignments"].values()]


# ---- what it has to equal --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "averaging", "shared"),
    [("fedavg", "model", False), ("heterofl", "gradient", True), ("dropout", "gradient", False)],
)
def test_one_cluster_is_no_clusters(play: Player, method: str, averaging: str, shared: bool) -> None:
    plain = play.once(method=method)
    one = play(method=method, clustering="ifca", ifca_clusters=1, ifca_averaging=averaging, ifca_shared=shared)
    assert one.hash == plain.hash
    assert [row["bytes_down"] for row in one.rows] == [row["bytes_down"] for row in plain.rows]
    assert "clusters" not in one.rows[0]


def test_clusters_in_another_order_are_the_same_clusters() -> None:
    states = drawn(3)
    plain, strategy = after(states)
    moved, other = after([states[i] for i in (2, 0, 1)])
    assert sum(map(bool, members(strategy))) > 1
    assert all(same(plain[i], moved[place]) for place, i in enumerate((2, 0, 1)))
    assert [members(strategy)[i] for i in (2, 0, 1)] == members(other)


def test_of_identical_states_only_the_first_moves_and_it_is_fedavg() -> None:
    (state,) = drawn(1)
    found, _ = after([state] * 3)
    alone, _ = after([state])
    assert same(found[0], alone[0])
    assert not same(found[0], state)
    assert same(found[1], state)
    assert same(found[2], state)


def test_gradient_averaging_is_model_averaging_with_small_steps() -> None:
    """θ_j moves by |S_j|/|M| of what the mean over S_j would move it, for one step of plain SGD."""
    states = drawn(3)
    plain: dict[str, Any] = {"local_steps": 1, "momentum": 0.0, "weight_decay": 0.0, "aggregation": "uniform"}
    by_model, strategy = after(states, rounds=1, **plain)
    by_gradient, _ = after(states, rounds=1, ifca_averaging="gradient", **plain)
    shares = [len(ids) / 6 for ids in members(strategy)]
    assert sum(0 < share < 1 for share in shares) > 1
    for before, model, gradient, share in zip(states, by_model, by_gradient, shares, strict=True):
        for name in before:
            expected = share * (model[name] - before[name])
            assert torch.allclose(gradient[name] - before[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("keys", [{}, {"method": "heterofl", "tiers": "a:1, b:1/2"}])
def test_sharing_everything_is_fedavg_and_nothing_is_plain_ifca(keys: dict[str, Any]) -> None:
    states = drawn(3, **keys)
    with sharing(everything=True):
        found, _ = after(states[:1] * 3, ifca_shared=True, **keys)
    (alone,) = after(states[:1], **keys)[0]
    assert all(same(state, alone) for state in found)
    with sharing(everything=False):
        found, _ = after(states, ifca_shared=True, **keys)
    assert all(same(state, plain) for state, plain in zip(found, after(states, **keys)[0], strict=True))


@contextmanager
def sharing(*, everything: bool) -> Iterator[None]:
    """Other tensors belong to the trunk than those outside the exits."""

    def names(of: Layout) -> frozenset[str]:
        return frozenset(of.tensors if everything else ())

    with patch("strategies.clustering.ifca.trunk", names), patch("client_app.cluster_choice.trunk", names):
        yield


def test_a_shared_trunk_is_one_and_learns_from_everybody() -> None:
    strategy, _, config = started(clustering="ifca", ifca_clusters=3, ifca_shared=True)
    begin = states_of(strategy)
    found, strategy = after(begin, rounds=1, ifca_shared=True, aggregation="uniform")
    of_trunk = trunk(layout(config.network))
    assert 0 < len(of_trunk) < len(begin[0])
    assert sum(map(bool, members(strategy))) > 1
    for name in begin[0]:
        same_everywhere = all(torch.equal(found[0][name], state[name]) for state in found)
        assert same_everywhere == (name in of_trunk)
    for number, ids in enumerate(members(strategy)):  # heads of clusters that nobody chose stay
        heads = {name for name in begin[0] if name not in of_trunk}
        assert any(torch.equal(found[number][name], begin[number][name]) for name in heads) == (not ids)


# ---- identity --------------------------------------------------------------------------------------------------------


def losses_of(grid: LocalGrid, requests: Sequence[Message]) -> list[float]:
    return [
        float(reply.content.metric_records["metrics"]["loss"])  # type: ignore[arg-type]
        for reply in (next(iter(grid.send_and_receive([request]))) for request in requests)
    ]


@pytest.mark.parametrize(
    "keys", [{}, {"norm": "group"}, {"method": "heterofl", "tiers": "a:1, b:1/2", "slice_at": "server"}]
)
def test_nobody_has_a_lower_loss_on_another_cluster(keys: dict[str, Any]) -> None:
    strategy, grid, _ = started(
        clustering="ifca", ifca_clusters=4, synthetic_groups="rotations:4", num_clients=8, **keys
    )
    strategy.runner.begin(grid, 1)
    context, found = strategy.context(1), {}
    states = [strategy.runner.states(context, only=cluster) for cluster in range(4)]
    for one in strategy.runner.round.assignments:
        asked = [
            loss_request(context, LOSSES, one.node, one.plan, states=each, objective=Objective()) for each in states
        ]
        found[one.node.id] = losses_of(grid, [message for _, message in asked])
    strategy.run_round(grid, 1)
    chosen = {node: number for number, ids in enumerate(members(strategy)) for node in ids}
    assert chosen.keys() == found.keys()
    assert all(losses[chosen[node]] == min(losses) for node, losses in found.items())
    assert len(set(chosen.values())) > 1


def test_near_the_truth_identities_are_exact_from_the_first_round() -> None:
    keys = {"synthetic_groups": "rotations:4", "num_clients": 8, "local_epochs": 4, "batch_size": 16}
    near = []
    for group in range(4):
        (state,) = drawn(1)
        strategy, grid, _ = started([state], **keys)
        strategy.runner.pieces.selection.choose = _only(group, strategy.runner.pieces.selection.choose)  # type: ignore[method-assign]
        for number in range(1, 3):
            strategy.run_round(grid, number)
        near += states_of(strategy)
    _, strategy = after(near, rounds=1, **keys)
    assert [{group_of("rotations:4", int(node)) for node in ids} for ids in members(strategy)] == [{0}, {1}, {2}, {3}]


def _only(group: int, choose: Any) -> Any:
    def some(grid: Any, context: Any, *, nodes: Any, **rest: Any) -> Any:
        return choose(grid, context, nodes=[node for node in nodes if node.id % 4 == group], **rest)

    return some


def test_a_cluster_that_nobody_chose_keeps_its_state_bit_for_bit() -> None:
    states = drawn(2)
    hopeless = {name: tensor * 1000 - 0.0 for name, tensor in states[1].items()}
    for averaging in ("model", "gradient"):
        found, strategy = after([states[0], hopeless, states[1]], ifca_averaging=averaging)
        assert members(strategy)[1] == []
        assert all(found[1][n].numpy().tobytes() == hopeless[n].numpy().tobytes() for n in hopeless)
        assert strategy.report.clusters["sizes"]["1"] == 0


@pytest.mark.parametrize("said", [None, -1.0, 2.0, 0.5, 3.0])
def test_a_reply_that_names_no_cluster_is_no_reply(play: Player, said: float | None) -> None:
    def lie(request: Message, reply: Message) -> list[Message]:
        if trains(request, 3):
            metrics = reply.content.metric_records["metrics"]
            del metrics["cluster"]
            if said is not None:
                metrics["cluster"] = said
        return [reply]

    def lose(request: Message, reply: Message) -> list[Message]:
        return [failed(request) if trains(request, 3) else reply]

    keys: dict[str, Any] = {"clustering": "ifca", "ifca_clusters": 2}
    lying, lost = play(lie, **keys), play(lose, **keys)
    assert lying.hash == lost.hash
    assert all("allowed is a whole number from 0 to 1" in one["reason"] for one in lying.rejected)
    assert len(lying.rejected) == 2


# ---- the wire --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slice_at", ["client", "server"])
@pytest.mark.parametrize("clusters", [2, 5])
def test_k_clusters_cost_exactly_k_downlinks_and_a_shared_trunk_counts_once(slice_at: str, clusters: int) -> None:
    keys = {"method": "heterofl", "tiers": "a:1, b:1/2", "slice_at": slice_at}

    def lengths(**more: Any) -> list[int]:
        strategy, grid, _ = started(**{**keys, **more})
        strategy.runner.begin(grid, 1)
        return [m.content.array_records["arrays"]["state"].shape[0] for m in strategy.runner.round.messages]

    plain = lengths()
    several = lengths(clustering="ifca", ifca_clusters=clusters)
    shared = lengths(clustering="ifca", ifca_clusters=clusters, ifca_shared=True)
    assert several == [clusters * numel for numel in plain]
    for numel, found in zip(plain, shared, strict=True):
        heads, rest = divmod(found - numel, clusters - 1)
        assert rest == 0
        assert 0 < heads < numel


def test_the_reply_is_one_model(play: Player) -> None:
    plain, several = play.once(), play(clustering="ifca", ifca_clusters=3)
    assert several.rows[0]["bytes_up"] == plain.rows[0]["bytes_up"]


def test_states_come_apart_as_they_were_put_together() -> None:
    draws = torch.Generator().manual_seed(0)
    states = [
        {
            "a": torch.randn(3, 2, generator=draws),
            "b": torch.randn(4, generator=draws),
            "c": torch.randn((), generator=draws),
        }
        for _ in range(3)
    ]
    shapes = shapes_of(states[0])
    for shared in ([], ["b"], ["a", "c"], ["a", "b", "c"]):
        flat = pack_states(states, shared)
        assert flat.shape == (packed_length(shapes, 3, shared),)
        for i, state in enumerate(unpack_states(flat, shapes, 3, shared)):
            assert all(torch.equal(state[name], states[0 if name in shared else i][name]) for name in shapes)
    assert torch.equal(pack_states(states, []), torch.cat([flatten(state) for state in states]))
    with pytest.raises(ValueError, match="expected 3 states"):
        unpack_states(torch.zeros(5), shapes, 3, [])


def test_requests_say_how_many_states_came_along() -> None:
    strategy, grid, _ = started(clustering="ifca", ifca_clusters=3, ifca_shared=True)
    strategy.runner.begin(grid, 1)
    content: RecordDict = strategy.runner.round.messages[0].content
    request, state = read_request(TrainRequest, content)
    assert request.clusters == ClusterStates(count=3, shared=True)
    record = content["arrays"]
    assert isinstance(record, ArrayRecord)
    assert bytes_of(record) == len(state.data)


# ---- the beginning, the report, and whole runs -----------------------------------------------------------------------


def test_initial_states_are_the_run_s_own_and_differ() -> None:
    assert initial_purpose(0) == "initial state"
    assert len({initial_purpose(i, attempt) for i in range(3) for attempt in range(3)}) == 9
    states, again = drawn(3), drawn(3)
    assert all(same(a, b) for a, b in zip(states, again, strict=True))
    assert not same(states[1], states[2])
    assert not same(states[1], drawn(3, seed=2)[1])


def test_restarts_look_for_a_balanced_beginning(play: Player) -> None:
    keys: dict[str, Any] = {"synthetic_groups": "rotations:2", "clustering": "ifca", "num_server_rounds": 1, **ONE}
    for seed in range(1, 9):
        once = play(seed=seed, **keys)
        if min(once.rows[0]["clusters"]["sizes"].values()) == 0:
            break
    again = play(seed=seed, ifca_restarts=20, ifca_least_share=1 / 3, **keys)
    assert min(again.rows[0]["clusters"]["sizes"].values()) >= 2
    assert again.rows[0]["bytes_survey_down"] > once.rows[0]["bytes_survey_down"]
    enough = play(seed=seed, ifca_restarts=20, ifca_least_share=0.0, **keys)
    assert enough.hash == once.hash  # because the first attempt will do


def test_of_unbalanced_beginnings_the_best_is_taken() -> None:
    answers = iter([[(0, 1.0), (0, 1.0)], [(0, 1.0), (1, 9.0)], [(1, 1.0), (0, 2.0)], [(1, 0.0), (1, 0.0)]])
    strategy, _, _ = started(clustering="ifca", ifca_clusters=2, ifca_restarts=3, ifca_least_share=0.5, seed=3)
    clustering = strategy.runner.pieces.clusters
    clustering._least_share = 0.6  # type: ignore[attr-defined]  # which nothing reaches
    clustering.start(lambda: next(answers))
    expected, _, _ = started(clustering="ifca", ifca_clusters=2, seed=3)
    expected.runner.pieces.clusters.draw(2)  # type: ignore[attr-defined]
    assert all(same(a, b) for a, b in zip(states_of(strategy), states_of(expected), strict=True))


def test_results_are_reported_by_cluster(play: Player) -> None:
    out = play(clustering="ifca", ifca_clusters=2, fraction_evaluate=1.0, **{k: ONE[k] for k in ("method", "tiers")})
    row = out.rows[-1]["clusters"]
    assert set(row) == {"main", "sizes", "assignments", "local"}
    assert sum(row["sizes"].values()) == 6
    assert sorted(node for ids in row["assignments"].values() for node in ids) == list(range(6))
    assert sum(one["nodes"] for one in row["local"].values()) == 6
    for one in row["local"].values():
        assert 0 <= one["accuracy"] <= 1
        assert 0 <= one["accuracy_test_identity"] <= 1
    assert row["main"] == max(range(2), key=lambda i: (row["sizes"][str(i)], -i))
    state = out.state
    own = {name for name in state if not name.startswith("cluster")}
    assert {name for name in state if name.startswith("cluster")} == {f"cluster{i}/{n}" for i in range(2) for n in own}
    assert all(torch.equal(state[name], state[f"cluster{row['main']}/{name}"]) for name in own)


@pytest.mark.parametrize(
    "keys",
    [
        {"method": "fedrolex", "ifca_averaging": "gradient", "codec": "qsgd"},
        {"method": "depthfl", "model": "mlp", "tiers": "a:1, b:1", "ifca_shared": True, "codec": "topk"},
        {"method": "fjord", "ifca_shared": True, "ifca_averaging": "gradient", "aggregation": "q-fedavg"},
        {"method": "fedecover", "ifca_restarts": 2, "selection": "pow-d", "fraction_train": 0.5},
        {"method": "fiarse"},
    ],
)
def test_over_any_method_resumed_and_sliced_on_the_server(play: Player, keys: dict[str, Any]) -> None:
    whole: dict[str, Any] = {
        "clustering": "ifca",
        "ifca_clusters": 3,
        "fraction_train": 0.7,
        "num_server_rounds": 3,
        "learning_rate": 0.05,
        "fraction_evaluate": 0.5,
        **keys,
    }
    out = play.once(**whole)
    assert out.rejected == []
    assert all(tensor.isfinite().all() for tensor in out.state.values())
    sliced = whole | {"slice_at": "server"}
    half = play(**sliced | {"num_server_rounds": 1})
    resumed = play(**sliced, resume=str(half.path))
    assert resumed.hash == out.hash
    assert [row["clusters"] for row in resumed.rows] == [row["clusters"] for row in out.rows]


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"clustering": "kmeans"}, "clustering = 'kmeans': allowed is one of none, ifca, cfl"),
        ({"ifca_clusters": 0}, "ifca-clusters = 0: allowed is a whole number of at least 1"),
        ({"ifca_averaging": "median"}, "ifca-averaging = 'median': allowed is one of model, gradient"),
        ({"ifca_restarts": -1}, "ifca-restarts = -1"),
        (
            {"ifca_clusters": 4, "ifca_least_share": 0.3, "ifca_restarts": 1},
            "ifca-least-share = 0.3: allowed is 0 to 1/4",
        ),
        ({"ifca_least_share": -0.1}, "ifca-least-share = -0.1: allowed is 0 to 1"),
        (
            {"clustering": "ifca", "ifca_clusters": 7},
            "ifca-clusters = 7: allowed is 1 to 6: no more clusters than nodes",
        ),
        ({"cfl_first_round": 0}, "cfl-first-round = 0"),
        ({"cfl_most_clusters": -1}, "cfl-most-clusters = -1"),
        ({"cfl_sample": 1}, "cfl-sample = 1"),
        ({"cfl_linkage": "ward"}, "cfl-linkage = 'ward': allowed is one of single, complete"),
        ({"cfl_gamma": 2.0}, "cfl-gamma = 2.0: allowed is 0 to 1"),
    ],
)
def test_settings_that_are_none(keys: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingError) as error:
        configured(**keys)
    assert named in str(error.value)


def test_there_may_be_more_than_ten_clusters() -> None:
    """The share that every cluster must have is looked at with restarts only."""
    keys: dict[str, Any] = {"ifca_clusters": 12, "num_clients": 20}
    assert len(configured(clustering="ifca", **keys).strategy().runner.pieces.clusters.states) == 12
    configured(**keys)
    with pytest.raises(SettingError, match="ifca-least-share"):
        configured(clustering="ifca", ifca_restarts=1, **keys)
