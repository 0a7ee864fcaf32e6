"""What a run's folder says of who holds what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data import load, shards
from models.cost import cost_of
from server_app.tier_records import costs_of, kept_plans
from strategies import METHODS
from tests.support import OF_RANKS, configured, run_of


@pytest.mark.parametrize("method", ["heterofl", "fiarse", "splitmix"])
def test_shares_of_layers_add_up_to_what_tiers_hold(tmp_path: Path, method: str) -> None:
    run = run_of(tmp_path / "run", method=method, norm="none", num_clients=4)
    run.folder.close()
    told = json.loads((tmp_path / "run" / "holdings.json").read_text())
    assert sum(one["size"] for one in told["layers"].values()) == sum(t.numel() for t in run.strategy.state.values())
    plans = kept_plans(run.strategy, run.strategy.context(1))
    for tier in run.strategy.settings.tiers:
        held = sum(one["size"] * one["held"][tier.name] for one in told["layers"].values())
        exact = cost_of(run.strategy.network, plans[tier.name]).parameters
        assert held == pytest.approx(exact, abs=1 if method == "fiarse" else 1e-6)
    assert ("by_importance" in told) == (method == "fiarse")


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_says_what_its_tiers_keep_of_the_network(tmp_path: Path, method: str) -> None:
    whole: dict[str, Any] = {"model": "resnet", "widths": "8, 16", "blocks": "1, 1"}
    run = run_of(tmp_path / "run", method=method, num_clients=4, **({} if method in OF_RANKS else whole))
    run.folder.close()
    told = json.loads((tmp_path / "run" / "holdings.json").read_text())["network"]
    assert list(told["tiers"]) == [tier.name for tier in run.strategy.settings.tiers]
    costs = costs_of(run.strategy, {})
    for name, one in told["tiers"].items():
        assert (one["parameters"], one["macs"]) == (costs[name]["parameters"], costs[name]["macs"])
        assert len(one["units"]) == len(told["axes"])
        assert 0 < one["memory"] <= told["full"]["memory"]


def test_labels_are_those_of_the_division(tmp_path: Path) -> None:
    run_of(tmp_path / "run", partition="dirichlet", num_clients=5).folder.close()
    told = json.loads((tmp_path / "run" / "holdings.json").read_text())["labels"]
    data = configured(partition="dirichlet", num_clients=5).data
    labels = load(data).train_examples.classes
    assert [sum(row) for row in told["counts"]] == [len(rows) for rows in shards(data)]
    assert np.sum(told["counts"], axis=0).tolist() == np.bincount(labels).tolist()
    assert told["clients"] == 5


def test_groups_whose_labels_were_changed_are_not_counted(tmp_path: Path) -> None:
    run_of(tmp_path / "run", num_clients=4, synthetic_groups="label-permutations:2").folder.close()
    assert "labels" not in json.loads((tmp_path / "run" / "holdings.json").read_text())
