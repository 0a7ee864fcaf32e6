"""CFL through the in-process grid, and both kinds of clusters on planted groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from flwr.app import Message, MetricRecord

from client_app.cluster_choice import best_on_path, score
from client_app.device import data_of
from client_app.model_cache import local_model
from data import Split
from data.synthetic_groups import group_of
from flotilla.local.grid import contexts
from models.algebra.plans import Plan
from models.algebra.submodel import flatten
from models.networks.build import initial_state
from models.randomness import torch_generator
from protocol import ClusterStates, PartRequest
from tests.support import Outcome, Player, address_of, configured, failed, trains, without

ONE: dict[str, Any] = {"method": "fedavg", "tiers": "a:1", "widths": "24", "num_clients": 8, "batch_size": 16}
# Tests that always ask for a cut, as soon as there may be one.
EAGER: dict[str, Any] = {"clustering": "cfl", "cfl_mean_norm": 9.0, "cfl_gamma": 0.0, "cfl_first_round": 1}
TWO: dict[str, Any] = {
    **ONE,
    "synthetic_groups": "label-permutations:2",
    "clustering": "cfl",
    "local_epochs": 3,
    "num_server_rounds": 8,
    "cfl_first_round": 3,
}


def groups(ids: Iterable[Any], planted: str) -> set[int]:
    return {group_of(planted, int(node)) for node in ids}


def last_assignments(out: Outcome) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = out.rows[-1]["clusters"]["assignments"]
    return found


# ---- what it has to equal --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fedavg", "heterofl", "fedecover"])
def test_a_threshold_of_zero_never_cuts_and_equals_no_clusters(play: Player, method: str) -> None:
    keys: dict[str, Any] = {"clustering": "cfl", "cfl_mean_norm": 0.0, "cfl_gamma": 0.0, "cfl_first_round": 1}
    out = play(method=method, **keys)
    assert out.hash == play.once(method=method).hash
    assert all(row["clusters"]["splits"] == {} for row in out.rows)


def test_no_cut_before_the_first_round_nor_beyond_the_most_clusters(play: Player) -> None:
    late = play(**EAGER | {"cfl_first_round": 2})
    assert [bool(row["clusters"]["splits"]) for row in late.rows] == [False, True]
    few = play(**EAGER | {"cfl_most_clusters": 2, "num_clients": 8, "num_server_rounds": 3})
    assert [len(row["clusters"]["sizes"]) for row in few.rows] == [2, 2, 2]


# ---- successive cuts -------------------------------------------------------------------------------------------------


def test_leaves_partition_the_nodes_through_successive_cuts(play: Player) -> None:
    out = play.once(**ONE | EAGER | {"num_clients": 12, "num_server_rounds": 4})
    seen, cuts = set(range(12)), 0
    before: dict[str, set[Any]] = {}
    for row in out.rows:
        clusters = row["clusters"]
        cuts += len(clusters["splits"])
        trained = {number: set(ids) for number, ids in clusters["assignments"].items()}
        assert set().union(*trained.values()) == seen
        assert sum(map(len, trained.values())) == len(seen)
        for number, ids in before.items():  # who was in a leaf is in it still, or in one of its children
            assert trained[number] == ids
        before = {n: ids for n, ids in trained.items() if n not in clusters["splits"]}
        assert sum(clusters["sizes"].values()) == len(seen)
    assert cuts >= 2
    state = out.state
    leaves = sorted(out.rows[-1]["clusters"]["sizes"])
    assert {name.split("/")[0] for name in state if "/" in name} == {f"cluster{leaf}" for leaf in leaves}
    main = out.rows[-1]["clusters"]["main"]
    assert all(torch.equal(t, state[f"cluster{main}/{name}"]) for name, t in state.items() if "/" not in name)


def test_a_cluster_learns_from_its_own_nodes_only(play: Player) -> None:
    """Without a node of another cluster, a cluster's state is the same bit for bit."""
    keys: dict[str, Any] = {**ONE, **EAGER, "num_server_rounds": 3, "cfl_most_clusters": 2}
    out = play.once(**keys)
    inside, outside = (f"cluster{number}/" for number in sorted(out.rows[-1]["clusters"]["sizes"]))
    node = out.rows[-1]["clusters"]["assignments"][outside.removeprefix("cluster").rstrip("/")][0]
    other = play(without(node, [3]), **keys)
    for name, tensor in out.state.items():
        if name.startswith(inside):
            assert torch.equal(tensor, other.state[name])
    assert any(not torch.equal(out.state[n], other.state[n]) for n in out.state if n.startswith(outside))


@pytest.mark.parametrize(
    ("stop", "keys"),
    [
        (1, {"method": "heterofl"}),
        (2, {"method": "fedrolex", "codec": "qsgd", "fraction_train": 0.7}),
        (1, {"method": "dropout", "tiers": "a:1, b:7/8", "cfl_linkage": "complete", "cfl_sample": 500}),
        (2, {"method": "depthfl", "tiers": "a:1, b:1", "aggregation": "q-fedavg"}),
        (2, {"method": "fedecover", "tiers": "a:1, b:7/8", "fraction_train": 0.7, "selection": "pow-d"}),
    ],
)
def test_over_any_method_resumed_between_cuts_and_sliced_on_the_server(
    play: Player, stop: int, keys: dict[str, Any]
) -> None:
    whole: dict[str, Any] = {"num_clients": 7, "num_server_rounds": 4, "learning_rate": 0.05, **EAGER, **keys}
    out = play.once(**whole)
    assert out.rejected == []
    assert len(out.rows[-1]["clusters"]["sizes"]) > 1
    assert all(tensor.isfinite().all() for tensor in out.state.values())
    sliced = whole | {"slice_at": "server"}
    half = play(**sliced | {"num_server_rounds": stop})
    resumed = play(**sliced, resume=str(half.path))
    assert resumed.hash == out.hash
    assert [row["clusters"] for row in resumed.rows] == [row["clusters"] for row in out.rows]


def test_parts_that_share_nothing_are_never_cut(play: Player) -> None:
    out = play(method="dropout", tiers="a:1/16", num_clients=4, **EAGER)
    assert all(row["clusters"]["splits"] == {} for row in out.rows)


# ---- planted groups --------------------------------------------------------------------------------------------------


def test_two_groups_with_permuted_labels_are_separated_and_never_cut_again(play: Player) -> None:
    out = play.once(**TWO)
    assert [groups(ids, TWO["synthetic_groups"]) for ids in last_assignments(out).values()] in ([{0}, {1}], [{1}, {0}])
    assert [sum(len(row["clusters"]["splits"]) for row in out.rows)] == [1]


@pytest.mark.parametrize("levels", [1, 7])
def test_the_noise_of_a_quantiser_hides_no_groups(play: Player, levels: int) -> None:
    keys: dict[str, Any] = {**TWO, "widths": "128", "codec": "qsgd", "codec_levels": levels}
    out = play(**keys)
    assert out.rejected == []
    assert [groups(ids, TWO["synthetic_groups"]) for ids in last_assignments(out).values()] in ([{0}, {1}], [{1}, {0}])
    iid = play(**keys | {"synthetic_groups": ""})
    assert all(row["clusters"]["splits"] == {} for row in iid.rows)


@pytest.mark.parametrize(("codec", "why"), [("topk", "orthogonal"), ("ef21", "follow"), ("qsgd", ""), ("float32", "")])
def test_codecs_under_which_updates_cannot_be_compared_are_named(codec: str, why: str) -> None:
    doubts = configured(codec=codec, clustering="cfl").settings.doubts()
    assert [why in line for line in doubts] == ([True] if why else [])
    assert configured(codec=codec).settings.doubts() == []


def test_the_log_has_the_doubts(play: Player, caplog: pytest.LogCaptureFixture) -> None:
    play(clustering="cfl", codec="topk", num_server_rounds=1)
    assert "look orthogonal" in caplog.text


def test_a_node_that_hides_its_norm_from_the_comparison_is_no_node(play: Player) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        if trains(request, 1):
            metrics = reply.content["metrics"]
            assert isinstance(metrics, MetricRecord)
            del metrics["norm"]
        return [reply]

    keys: dict[str, Any] = {**ONE, **EAGER, "codec": "qsgd", "num_server_rounds": 2}
    out = play(faults, **keys)
    assert {(r["node"], r["reason"].split(":")[0]) for r in out.rejected} == {(1, "norm = None")}
    assert out.hash == play(without(1), **keys).hash


def test_clients_of_one_distribution_are_never_cut(play: Player) -> None:
    one = {**TWO, "synthetic_groups": "", "num_server_rounds": 10}
    out = play(**one)
    assert all(row["clusters"]["splits"] == {} for row in out.rows)
    # Not even if the norms always ask for it: the bound on noise holds by itself.
    asked = play(**one | {"cfl_mean_norm": 9.0, "cfl_largest_norm": 0.0})
    assert all("cross" in row["clusters"]["norms"]["0"] for row in asked.rows)
    assert asked.hash == out.hash


def test_a_node_that_missed_the_cut_walks_to_its_group_s_leaf(play: Player) -> None:
    plain = play.once(**TWO)
    cut_in = next(row["round"] for row in plain.rows if row["clusters"]["splits"])
    absent = 5
    out = play(without(absent, range(1, cut_in + 1)), **TWO)
    walked = [row["clusters"]["walked"] for row in out.rows if row["clusters"]["walked"]]
    assert [[node for ids in one.values() for node in ids] for one in walked] == [[absent]]
    leaf = next(ids for ids in last_assignments(out).values() if absent in ids)
    assert groups(leaf, TWO["synthetic_groups"]) == {absent % 2}
    assert len(leaf) == 4


def test_every_client_may_go_back_on_its_path(play: Player) -> None:
    """F7: the best of the states that a cluster went through, by examples that it is not scored on."""
    out, plain = play(**TWO, fraction_evaluate=1.0, local_test_fraction=0.3), play(**TWO, local_test_fraction=0.3)
    assert out.hash == plain.hash
    cut_in = next(row["round"] for row in out.rows if row["clusters"]["splits"])
    for row in out.rows:
        for local in row["clusters"]["local"].values():
            assert ("accuracy_best_on_path" in local) == (row["round"] >= cut_in)
    for local in out.rows[-1]["clusters"]["local"].values():  # opposed labels: nobody wants the common model back
        assert local["accuracy_best_on_path"] == local["accuracy_end_of_path"] > 0.7


@pytest.mark.parametrize("keys", [{"slice_at": "server", "method": "heterofl"}, {"method": "fiarse"}])
def test_paths_of_parts(play: Player, keys: dict[str, Any]) -> None:
    out = play(**EAGER, **keys, fraction_evaluate=1.0, num_server_rounds=3, local_test_fraction=0.3)
    assert out.rejected == []
    found = [local["accuracy_best_on_path"] for local in out.rows[-1]["clusters"]["local"].values()]
    assert found
    assert all(0 <= accuracy <= 1 for accuracy in found)


def test_the_best_on_the_path_is_chosen_and_scored_on_different_halves() -> None:
    config = configured(**ONE | {"num_clients": 3, "local_test_fraction": 0.4})
    examples = data_of(contexts(config.flat, 3)[address_of(2)])
    model = local_model(config.network, Plan(), torch.device("cpu"))
    stages = ClusterStates(count=5, path=True)
    request = PartRequest(round_number=1, nonce="n", seed=1, network=config.network, plan=Plan(), clusters=stages)
    halves = [Split(examples.test.inputs[i::2], examples.test.labels[i::2]) for i in (0, 1)]
    told_apart = 0
    for trial in range(6):
        states, found = [], []
        for i in range(5):
            drawn = initial_state(config.network, torch_generator(trial, i, "server", "initial state"))
            states.append(flatten(drawn))
            model.load(config.network, Plan(), states[-1], sliced=False)
            found.append([score(model, half, examples.train).accuracy for half in halves])
        said = best_on_path(model, request, states, examples.test, examples.train)
        best = max(range(5), key=lambda i: (found[i][0], i))
        assert found[best][0] >= found[0][0]  # never worse than the root's, where it is chosen
        assert said == {"accuracy-best-on-path": found[best][1], "accuracy-end-of-path": found[-1][1]}
        told_apart += found[best][1] != max(one[1] for one in found)
    assert told_apart  # else the halves could be the same
    one = Split(examples.test.inputs[:1], examples.test.labels[:1])
    assert best_on_path(model, request, states, one, examples.train) == {}


def test_a_walk_changes_no_state(play: Player) -> None:
    cut_in = next(row["round"] for row in play.once(**TWO).rows if row["clusters"]["splits"])
    away = range(1, cut_in + 1)

    def never(request: Message, reply: Message) -> list[Message]:
        return [failed(request) if trains(request, 2) else reply]

    def walks(request: Message, reply: Message) -> list[Message]:
        return [failed(request) if trains(request, 2, away) else reply]

    until = {**TWO, "num_server_rounds": cut_in + 1}
    walking, gone = play(walks, **until), play(never, **until)
    assert walking.rows[-1]["clusters"]["walked"]
    assert walking.rows[-1]["accepted"] == gone.rows[-1]["accepted"] + 1
    shared = [name for name in walking.state if "/" in name]  # the largest of equals may be another one
    assert all(torch.equal(walking.state[name], gone.state[name]) for name in shared)


def test_ifca_finds_four_rotations(play: Player) -> None:
    planted = "rotations:4"
    out = play.once(
        **ONE | {"num_clients": 12},
        synthetic_groups=planted,
        clustering="ifca",
        ifca_clusters=4,
        ifca_restarts=10,
        ifca_least_share=0.15,
        num_server_rounds=4,
        local_epochs=3,
        seed=4,
    )
    assert sorted(map(sorted, (groups(ids, planted) for ids in last_assignments(out).values()))) == [[0], [1], [2], [3]]
