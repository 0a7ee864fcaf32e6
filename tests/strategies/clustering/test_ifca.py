"""IFCA against what it has to equal: no clusters, FedAvg, its own clusters in another order; and who is where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from flwr.app import Message
from torch import Tensor

from data.synthetic_groups import group_of
from flotilla.local.grid import LocalGrid
from models.algebra.axes import Layout
from models.algebra.submodel import Submodel
from models.errors import SettingError
from models.networks.build import layout
from models.variants.cluster_states import trunk
from protocol import LOSSES, Objective
from strategies.round.requests import loss_request
from strategies.selection.update_sketch import UpdateSketcher
from tests.strategies.clustering.ifca_states import after, drawn, members, same, started, states_of
from tests.support import Player, configured, failed, trains

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


def test_what_is_remembered_needs_one_mask() -> None:
    """FIARSE's part is a mask of the state, so with several states nobody knows whose before the reply is there."""
    keys: dict[str, Any] = {"method": "fiarse", "clustering": "ifca", "num_clients": 4}
    with pytest.raises(SettingError, match=r"^codec = 'ef21'.*keeps nothing of a node"):
        configured(codec="ef21", **keys).strategy()
    configured(codec="qsgd", **keys).strategy()
    configured(codec="ef21", **keys | {"method": "heterofl"}).strategy()
    configured(codec="ef21", **keys | {"clustering": "cfl"}).strategy()


def test_a_selector_sees_the_coordinates_of_the_chosen_state(play: Player) -> None:
    """DivFL's sketch of a node that chose another state is made by that state's mask."""
    masks: list[Tensor] = []
    told = UpdateSketcher.vector

    def noted(self: UpdateSketcher, part: Submodel, difference: Tensor) -> Any:
        masks.append(torch.cat([block.mask.flatten() for block in part.values() if block.mask is not None]))
        return told(self, part, difference)

    with patch.object(UpdateSketcher, "vector", noted):
        out = play(
            method="fiarse",
            clustering="ifca",
            selection="divfl",
            tiers="a:1/2",
            num_clients=6,
            fraction_train=1.0,
            num_server_rounds=1,
            seed=2,
        )
    assert len(masks) == 6
    chosen = [nodes for nodes in out.rows[0]["clusters"]["assignments"].values() if nodes]
    assert len({tuple(mask.tolist()) for mask in masks}) == len(chosen) == 2
