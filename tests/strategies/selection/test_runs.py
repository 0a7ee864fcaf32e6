"""Whole runs by every selector: they are finite and resume; weights reach the mean; settings that are none."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.errors import SettingError
from models.networks.build import initial_state, submodel
from models.randomness import torch_generator
from protocol import Scalar
from strategies import FedAvg, Settings
from strategies.selection import SELECTORS, Candidates, Probe, Selection, Selector, selector
from strategies.tiers.tier import Tier
from tests.strategies.selection.timed import on_time, told
from tests.support import configured, play, run_of, tier_of

VARIANTS: dict[str, dict[str, Scalar]] = {
    **{name: {"selection": name} for name in SELECTORS},
    "pow-d, common part": {"selection": "pow-d", "selection_compare": "common"},
    "pow-d, raw": {"selection": "pow-d", "selection_compare": "raw"},
    "utility, mini-batch": {"selection": "utility", "selection_loss": "batch", "selection_batch": 7},
    "utility, last": {"selection": "utility", "selection_loss": "last", "selection_candidates": 6},
    "divfl, everyone": {"selection": "divfl", "divfl_refresh": "everyone", "divfl_weights": "plain"},
    "divfl, participants": {"selection": "divfl", "divfl_refresh": "participants", "divfl_weights": "size"},
    "divfl, last layer": {"selection": "divfl", "divfl_vectors": "last-layer", "divfl_greedy": "stochastic"},
    "divfl, all": {"selection": "divfl", "divfl_vectors": "all", "divfl_greedy": "greedy"},
    "oort, quick pacer": {
        "selection": "oort",
        "oort_pacer_rounds": 1,
        "oort_pacer_step": 40.0,
        "oort_exploration": 0.3,
        "selection_lateness_exponent": 9.0,
    },
}

CASES = [(variant, "heterofl") for variant in VARIANTS] + [(name, "fedrolex") for name in ("pow-d", "divfl", "oort")]


@pytest.mark.parametrize(("variant", "method"), CASES)
def test_every_selector_is_finite_and_resumes_bit_for_bit(tmp_path: Path, variant: str, method: str) -> None:
    keys: dict[str, Any] = {
        "method": method,
        "fraction_train": 0.4,
        "num_server_rounds": 3,
        "slice_at": "server",
        "batch_size": 60,
        "norm": "group",
        "num_clients": 7,
        **VARIANTS[variant],
    }
    whole = play(tmp_path, on_time, **keys)
    assert whole.rejected == []
    assert all(tensor.isfinite().all() for tensor in whole.state.values())
    assert isfinite(whole.rows[-1]["loss"])
    chosen: set[int] = set()
    for row in whole.rows:
        assert 1 <= len(row["selected"]) <= 3
        assert sum(row["selected_tiers"].values()) == len(row["selected"]) == len(set(row["selected"]))
        chosen |= set(row["selected"])
        assert row["selected_ever"] == len(chosen)
    uninterrupted = whole.hash, told(whole)
    (tmp_path / "checkpoints/round-000003.json").unlink()  # as if it had been stopped before
    resumed = play(tmp_path, on_time, resume=str(tmp_path), **keys)
    assert any("resuming after round 2" in line for line in resumed.lines)
    assert (resumed.hash, told(resumed)) == uninterrupted


# ---- weights ---------------------------------------------------------------------------------------------------------


class Fixed(Selector):
    """The same nodes with the same weights in every round."""

    def __init__(self, nodes: tuple[int, ...], weights: tuple[float, ...] | None) -> None:
        self._selection = Selection(nodes, weights)

    def select(self, candidates: Candidates, count: int, draws: np.random.Generator, probe: Probe) -> Selection:
        return self._selection


def after_one_round(nodes: tuple[int, ...], weights: tuple[float, ...] | None, tmp_path: Path, **keys: Any) -> Any:
    run = run_of(tmp_path / f"{nodes}{weights}", norm="group", partition="dirichlet", num_server_rounds=1, **keys)
    settings = replace(run.strategy.settings, selector=Fixed(nodes, weights))
    strategy = type(run.strategy)(run.strategy.network, settings, **run.strategy.options)
    state = initial_state(strategy.network, torch_generator(1, 0, "server", "initial state"))
    for name, tensor in state.items():
        strategy.state[name].copy_(tensor)
    strategy.run_round(run.grid, 1)
    return {name: tensor.clone() for name, tensor in strategy.state.items()}


def test_the_selections_weights_reach_the_mean(tmp_path: Path) -> None:
    """FedAvg of three nodes with weights: the same mean of the three states that each would give alone."""
    keys = {"method": "fedavg", "aggregation": "uniform"}
    alone = [after_one_round((node,), None, tmp_path, **keys) for node in (5, 1, 4)]
    weights = (2.0, 7.0, 1.0)
    together = after_one_round((5, 1, 4), weights, tmp_path, **keys)
    for name, tensor in together.items():
        expected = sum(w * state[name].double() for w, state in zip(weights, alone, strict=True)) / sum(weights)
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-4, atol=1e-6)


def test_weights_are_per_coordinate_where_tiers_differ(tmp_path: Path) -> None:
    """Where only one of the two is there, its weight does not matter; where both are, it does."""
    config = configured(method="heterofl")
    strategy = config.strategy()
    tiers = {node: tier_of(strategy, node) for node in range(6)}
    wide = next(node for node, tier in tiers.items() if tier.name == "a")
    narrow = next(node for node, tier in tiers.items() if tier.name == "c")
    keys = {"method": "heterofl", "heterofl_label_rows": False}
    plain, heavy = (after_one_round((wide, narrow), weights, tmp_path, **keys) for weights in (None, (1.0, 9.0)))
    block = submodel(strategy.network, strategy.kept_plan(strategy.context(1), Tier("c", tiers[narrow].rate)))
    changed = 0
    for name, tensor in plain.items():
        rows = dict(block.items())[name].local_shape
        inner = tuple(slice(0, size) for size in rows)
        changed += not torch.equal(tensor[inner], heavy[name][inner])
        outside = torch.ones_like(tensor, dtype=torch.bool)
        outside[inner] = False
        torch.testing.assert_close(tensor[outside], heavy[name][outside], rtol=1e-5, atol=1e-7)
    assert changed > 4


@pytest.mark.parametrize("selection", ["by-size-replacement", "pow-d", "divfl"])
def test_size_does_not_count_twice(tmp_path: Path, selection: str) -> None:
    """FedAvg weighs by examples; not where they counted in the choice, unless the user says so."""
    keys: dict[str, Any] = {"method": "fedavg", "selection": selection, "partition": "dirichlet", "fraction_train": 0.7}
    keys |= {"num_server_rounds": 1, "norm": "none"}
    by_method, uniform, by_examples = (
        play(tmp_path / kind, aggregation=kind, **keys).hash for kind in ("method", "uniform", "examples")
    )
    assert by_method == uniform != by_examples


def test_uniform_selection_leaves_the_methods_weights(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"method": "fedavg", "partition": "dirichlet", "fraction_train": 0.7, "num_server_rounds": 1}
    by_method, uniform, by_examples = (
        play(tmp_path / kind, aggregation=kind, **keys).hash for kind in ("method", "uniform", "examples")
    )
    assert by_method == by_examples != uniform


# ---- before anything starts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"selection": "pow-d", "selection_candidates": 2}, r"selection-candidates = 2: allowed is 3 .* to 6 "),
        ({"selection": "pow-d", "selection_candidates": 7}, r"selection-candidates = 7: allowed is 3 .* to 6 "),
        ({"selection": "utility", "selection_candidates": 7}, r"selection-candidates = 7: allowed is 3 .* to 6 "),
        ({"selection": "best"}, r"selection = 'best': allowed is one of uniform, by-size, "),
        (
            {"selection": "rpow-d", "selection_compare": "common"},
            r"selection-compare = 'common': allowed is one of tier-rank, raw",
        ),
        ({"selection": "oort", "oort_exploration": 1.5}, r"oort-exploration = 1.5: allowed is 0 to 1"),
        ({"selection": "divfl", "divfl_size": 0}, r"divfl-size = 0: allowed is 1 to 65536"),
        ({"selection": "divfl", "divfl_vectors": "some"}, r"divfl-vectors = 'some': allowed is one of projected, last"),
    ],
)
def test_one_clear_line(keys: dict[str, Scalar], line: str) -> None:
    with pytest.raises(SettingError, match=f"^{line}") as caught:
        configured(fraction_train=0.5, **keys)
    assert "\n" not in str(caught.value)


def test_a_strategy_of_ones_own_takes_a_selector(tmp_path: Path) -> None:
    """As in any Flower app: the selector is an argument."""
    config = configured(method="fedavg")
    strategy = FedAvg(
        config.network,
        Settings(selector=selector("pow-d", {"selection-candidates": 4}), nodes=6, fraction_train=0.5),
    )
    run = run_of(tmp_path, method="fedavg")
    report = strategy.run_round(run.grid, 1)
    assert len(report.selected) == report.accepted == 3
