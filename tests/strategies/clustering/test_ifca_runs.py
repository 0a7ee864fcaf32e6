"""IFCA's beginning, its report, whole runs, and settings that are none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models.errors import SettingError
from strategies.clustering.base import initial_purpose
from tests.strategies.clustering.ifca_states import ONE, drawn, same, started, states_of
from tests.support import Player, configured


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
