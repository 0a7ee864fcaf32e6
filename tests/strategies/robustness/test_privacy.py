"""Central differential privacy: sensitivity, noise, accounting, and what is refused."""

from __future__ import annotations

from fractions import Fraction
from math import erfc, exp, inf, sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message

from flotilla.local.grid import contexts
from models import NetworkSpec, PartialAverage, Plan, completed, layout
from models.algebra.plans import submodel
from models.algebra.submodel import flatten
from models.errors import SettingError
from server_app.folder.releases import FILE, keep_releases
from strategies.robustness.options import GuardOptions
from strategies.robustness.privacy import BudgetSpent, Privacy, affordable, epsilon
from tests.strategies.robustness.test_runs import attacking
from tests.support import Player, address_of, configured, failed, keys_of, trains

pytest.importorskip("dp_accounting", reason="flwr's accountant needs it: pip install -e '.[privacy]'")

ON: dict[str, Any] = {
    "num_clients": 4,
    "tiers": "a:1, b:1/2",
    "dp_noise": 1.0,
    "heterofl_label_rows": False,
    "guard_rollbacks": 0,
}


def exact_epsilon(multiplier: float, releases: int, delta: float) -> float:
    """Of composed Gaussian mechanisms, in closed form (Balle and Wang, ICML 2018, Theorem 8)."""

    def phi(x: float) -> float:
        return 0.5 * erfc(-x / sqrt(2))

    mu, low, high = sqrt(releases) / multiplier, 0.0, 500.0
    for _ in range(200):
        middle = (low + high) / 2
        spent = phi(mu / 2 - middle / mu) - exp(middle) * phi(-mu / 2 - middle / mu)
        low, high = (middle, high) if spent > delta else (low, middle)
    return high


@pytest.mark.parametrize("multiplier", [0.7, 1.0, 5.0])
@pytest.mark.parametrize("releases", [1, 20, 300])
def test_flwrs_epsilon_is_a_little_above_the_exact_one(multiplier: float, releases: int) -> None:
    exact = exact_epsilon(multiplier, releases, 1e-5)
    assert exact <= epsilon(GuardOptions(dp_noise=multiplier), 100, releases) <= 1.25 * exact


def test_the_budget_says_how_many_rounds_it_pays_for() -> None:
    options = GuardOptions(dp_noise=4.0, dp_epsilon=3.0)
    fit = affordable(options, 10, 1000)
    assert epsilon(options, 10, fit) <= 3.0 < epsilon(options, 10, fit + 1)
    with pytest.raises(SettingError, match=f"num-server-rounds.*at most {fit}"):
        configured(**ON | {"dp_noise": 4.0}, dp_epsilon=3.0, num_server_rounds=1000)


def test_noise_has_the_deviation_of_the_bound_over_those_who_were_asked() -> None:
    spec = layout(completed(NetworkSpec("mlp", (1, 28, 28), 10, widths=(64,))))
    whole, half = submodel(spec, Plan()), submodel(spec, Plan(Fraction(1, 2)))
    average = PartialAverage(spec)
    for part in (whole, half, half, half):
        average.add(part, torch.zeros(part.numel))
    state = {name: torch.zeros(tensor.shape) for name, tensor in spec.tensors.items()}
    average.finish(state, out=state)
    privacy = Privacy(GuardOptions(dp_noise=2.0, dp_clip=0.5), 4)
    privacy.add_noise(state, average, 3.0, 1)
    first = next(name for name, tensor in spec.tensors.items() if len(tensor.shape) == 2)
    noise, count = state[first], state[first].shape[0] // 2
    assert float(noise[:count].std()) == pytest.approx(2.0 * 0.5 * 3.0 / 4, rel=0.02)
    assert float(noise[count:].std()) == pytest.approx(2.0 * 0.5 * 3.0 / 1, rel=0.02)
    assert abs(float(noise.mean())) < 0.05
    assert privacy.releases == 1


def test_one_node_moves_the_sum_by_no_more_than_the_bound(play: Player) -> None:
    """Almost without noise: two runs that differ in all that one node says, or in whether it says anything."""
    keys: dict[str, Any] = {**ON, "dp_noise": 1e-9, "dp_clip": 0.01, "num_server_rounds": 1, "tiers": "a:1"}
    runs = [play(**keys), play(attacking(-1e6), **keys), play(silent, **keys)]
    for other in runs[1:]:
        moved = sum(float((runs[0].state[n] - other.state[n]).square().sum()) for n in other.state) ** 0.5
        assert 1e-5 < moved <= 2 * 0.01 / 4 * 1.001  # from there to the other side; from there to nothing is half
    assert runs[2].rows[0]["accepted"] == 3


def silent(request: Message, reply: Message) -> list[Message]:
    return [failed(request) if trains(request, 2) else reply]


def test_what_was_spent_is_in_the_metrics_and_abandoned_rounds_are_free(play: Player) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        return [failed(request) if trains(request, rounds=[2]) else reply]

    rows = play(faults, num_server_rounds=3, **ON).rows
    assert [row["guard"]["releases"] for row in rows] == [1, 1, 2]
    assert rows[0]["guard"]["epsilon"] == rows[1]["guard"]["epsilon"] < rows[2]["guard"]["epsilon"] < inf
    assert rows[0]["guard"]["delta"] == 1e-5


def test_a_resumed_run_draws_the_same_noise_and_another_run_does_not(play: Player) -> None:
    one = play(num_server_rounds=2, **ON)
    (one.path / "checkpoints" / "round-000002.json").unlink()
    before = one.hash
    again = play(resume=str(one.path), num_server_rounds=2, **ON)
    assert again.hash == before != play(num_server_rounds=2, **ON).hash
    assert again.rows[-1]["guard"]["releases"] == 2


def averaged(privacy: Privacy, moved: float) -> dict[str, torch.Tensor]:
    """A state that four nodes moved that far, with its noise."""
    spec = completed(NetworkSpec("mlp", (1, 4, 4), 3, widths=(5,)))
    average, whole = PartialAverage(layout(spec)), submodel(layout(spec), Plan())
    for _ in range(4):
        average.add(whole, torch.full((whole.numel,), moved))
    state = {name: torch.zeros(tensor.shape) for name, tensor in layout(spec).tensors.items()}
    average.finish(state, out=state)
    privacy.add_noise(state, average, 1.0, 3)
    return state


def test_a_round_that_is_repeated_with_other_replies_has_noise_of_its_own(tmp_path: Path) -> None:
    """Else the difference of the two states would be that of the means, without noise; and it counts as one more."""
    first, states = Privacy(GuardOptions(dp_noise=1.0), 4), list[dict[str, torch.Tensor]]()
    key, counted = first.key, list[int]()
    keep_releases(tmp_path, first, 0)
    states.append(averaged(first, 0.5))
    for moved in (0.5, 0.25, 0.25, 0.75):
        again = Privacy(GuardOptions(dp_noise=1.0), 4)
        again.restore({}, {"key": hex(key), "releases": 0})  # killed after the release, before its checkpoint
        keep_releases(tmp_path, again, 2)
        states.append(averaged(again, moved))
        counted.append(again.releases)
    assert counted == [1, 2, 2, 3]
    same, other = (flatten(states[i]) - flatten(states[0]) for i in (1, 2))
    assert not same.any()
    assert float(other.std()) > 0.1  # two draws of N(0, 1/4) and not one taken twice
    assert "mark" in (tmp_path / FILE).read_text()
    later = Privacy(GuardOptions(dp_noise=1.0), 4)
    keep_releases(tmp_path, later, 3)
    assert not later.made


def test_a_release_is_on_the_disk_before_it_is_made() -> None:
    privacy, told = Privacy(GuardOptions(dp_noise=1.0), 4), list[int]()

    def full(round_number: int, mark: str) -> None:
        told.append(round_number)
        raise OSError("no space left")

    privacy.on_release = full
    with pytest.raises(OSError, match="no space"):
        averaged(privacy, 0.5)
    assert told == [3]
    assert privacy.releases == 0


def test_no_release_beyond_the_budget() -> None:
    spec = layout(completed(NetworkSpec("mlp", (1, 4, 4), 3, widths=(5,))))
    state = {name: torch.zeros(tensor.shape) for name, tensor in spec.tensors.items()}
    privacy = Privacy(GuardOptions(dp_noise=1.0, dp_epsilon=0.1), 4)
    with pytest.raises(BudgetSpent, match="dp-epsilon"):
        privacy.add_noise(state, PartialAverage(spec), 1.0, 1)
    assert privacy.releases == 0


@pytest.mark.parametrize(
    ("key", "keys"),
    [
        ("heterofl-label-rows", {"heterofl_label_rows": True}),
        ("aggregation", {"method": "fedavg"}),
        ("aggregation", {"aggregation": "examples"}),
        ("aggregation", {"aggregation": "q-fedavg"}),
        ("aggregation", {"aggregation": "fednova"}),
        ("selection", {"selection": "by-size"}),
        ("tier-assignment", {"tier_assignment": "measured"}),
        ("clustering", {"clustering": "cfl"}),
        ("dynamic-alpha", {"method": "depthfl"}),
        ("guard-norm", {"guard_norm": "clip"}),
        ("guard-mean", {"guard_mean": "median"}),
        ("over-selection", {"over_selection": 1.3}),
        ("guard-rollbacks", {"guard_rollbacks": 1}),
        ("norm", {"method": "fjord", "aggregation": "uniform", "norm": "batch-per-width"}),
    ],
)
def test_what_the_guarantee_would_not_hold_for_is_refused_with_the_reason(key: str, keys: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=f"^{key} = .*dp-noise") as caught:
        configured(**ON | keys)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["fedrolex", "dropout", "fedecover", "scalefl", "fiarse"])
def test_methods_whose_denominators_are_fixed(play: Player, method: str) -> None:
    out = play(method=method, num_server_rounds=1, **ON | {"dp_noise": 0.01})
    assert out.summary["status"] == "finished"
    assert all(tensor.isfinite().all() for tensor in out.state.values())


def test_a_node_that_would_be_measured_is_left_out_with_the_reason(play: Player) -> None:
    """Its tier would depend on its number of examples; nobody is asked to measure anything."""
    nodes = contexts(keys_of(num_clients=4), 4)
    for number, tier in enumerate(["auto", "a", "a", "b"]):
        nodes[address_of(number)].node_config["tier"] = tier
    out = play(nodes=nodes, tier_assignment="node", num_server_rounds=1, **ON)
    [left_out] = out.rejected
    assert left_out["node"] == 0
    assert "tier = 'auto': allowed is a, b with dp-noise, because" in left_out["reason"]
    assert out.rows[0]["selected_tiers"] == {"a": 2, "b": 1}
    assert all("profile" not in context.state for context in nodes.values())
