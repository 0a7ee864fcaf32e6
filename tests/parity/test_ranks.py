"""Rules for pairs of factors against plain transcriptions of the papers' formulas: lists, dense products, one SVD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from models import NetworkSpec
from models.adapters.low_rank import FACTOR, paths_of_pairs
from models.algebra.factor_average import FactorAverage
from models.algebra.pairs import Pair
from models.algebra.plans import Plan
from models.errors import SettingError
from models.networks.build import build_part
from strategies import METHODS, Settings
from strategies.robustness.options import GuardOptions
from strategies.secure.options import SecureOptions
from tests.parity.rank_rounds import EXAMPLES, RANK, SETTINGS, SHARES, SPEC, Replied, made, near, replied
from tests.parity.rounds import node

# ---- by coordinate ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rbla", "prelort"])
def test_a_rank_is_averaged_over_those_who_held_it(method: str) -> None:
    done = replied(method)
    for pair in done.pairs:
        for j in range(RANK):
            held = [(b, a, n) for (b, a), n in zip(done.factors(pair), EXAMPLES, strict=True) if b.shape[1] > j]
            total = sum(n for *_, n in held)
            assert near(done.after[pair.b][:, j], sum(n / total * b[:, j] for b, _, n in held))  # type: ignore[arg-type]
            assert near(done.after[pair.a][j], sum(n / total * a[j] for _, a, n in held))  # type: ignore[arg-type]


def padded(done: Replied, pair: Pair, weights: Sequence[float], *, differences: bool = False) -> tuple[Tensor, Tensor]:
    """Zeros up to the full rank, and the weighted sum over everybody."""
    b, a = torch.zeros_like(done.before[pair.b]), torch.zeros_like(done.before[pair.a])
    for (left, right), weight in zip(done.factors(pair), weights, strict=True):
        r = left.shape[1]
        b[:, :r] += weight * (left - done.before[pair.b][:, :r] if differences else left)
        a[:r] += weight * (right - done.before[pair.a][:r] if differences else right)
    return (b + done.before[pair.b], a + done.before[pair.a]) if differences else (b, a)


@pytest.mark.parametrize("differences", [False, True])
def test_zero_padding_counts_everybody(differences: bool) -> None:
    done = replied("zero-padding", padded="differences" if differences else "values")
    for pair in done.pairs:
        b, a = padded(done, pair, SHARES, differences=differences)
        assert near(done.after[pair.b], b)
        assert near(done.after[pair.a], a)


def test_zero_padding_lets_idle_devices_change_something_unless_differences_are_padded() -> None:
    idle, still = replied("zero-padding", moved=0.0), replied("zero-padding", moved=0.0, padded="differences")
    for pair in idle.pairs:
        assert near(idle.after[pair.a][3], SHARES[0] * idle.before[pair.a][3])  # only one device has rank 4
        assert near(idle.after[pair.a][0], idle.before[pair.a][0])
        assert near(still.after[pair.a], still.before[pair.a])


def test_hetlora_weighs_by_the_norm_of_the_product() -> None:
    done = replied("hetlora")
    for pair in done.pairs:
        norms = [float((b @ a).norm()) for b, a in done.factors(pair)]
        b, a = padded(done, pair, [norm / sum(norms) for norm in norms])
        assert near(done.after[pair.b], b)
        assert near(done.after[pair.a], a)


def test_fslora_adds_differences_over_everybody() -> None:
    """Each device's ranks are its own; B ← B + Σ ΔB_k/K, and a part has R/r times the factor of the whole in front."""
    strategy = made("fslora")
    tiers = [strategy.settings.tiers[i] for i in (0, 1, 1, 2)]
    draws = [strategy.plan(strategy.context(1), node(i), tier) for i, tier in enumerate(tiers)]
    assert len(set(draws)) == 4
    done = replied("fslora", plans=draws)
    for pair in done.pairs:
        b, a = done.before[pair.b].clone(), done.before[pair.a].clone()
        for (left, right), plan in zip(done.factors(pair), draws, strict=True):
            ranks = list(dict(plan.units).get(pair.axis, range(RANK)))
            b[:, ranks] += (left - done.before[pair.b][:, ranks]) / 4
            a[ranks] += (right - done.before[pair.a][ranks]) / 4
        assert near(done.after[pair.b], b)
        assert near(done.after[pair.a], a)


def test_with_a_fixed_the_average_of_b_is_the_average_of_products() -> None:
    """Exactly, and A is the one that was drawn; a device sends B and the head."""
    plans = [Plan(Fraction(rank, RANK), fixed=True) for rank in (4, 4, 4, 4)]
    done = replied("ffa-lora", plans=plans)
    for pair in done.pairs:
        assert all(pair.a not in one and pair.b in one for one in done.left)
        assert torch.equal(done.after[pair.a], done.before[pair.a])
        products = [share * one[pair.b] @ done.before[pair.a] for one, share in zip(done.left, SHARES, strict=True)]
        assert near(done.after[pair.b] @ done.after[pair.a], torch.stack(products).sum(0), 1e-6)
    node_plan = done.strategy.plan(done.strategy.context(1), node(1), SETTINGS.tiers[1])
    assert node_plan == Plan(Fraction(1, 2), fixed=True) == Plan.from_json(node_plan.to_json())
    assert node_plan.holding == Plan(Fraction(1, 2))


# ---- what stands in front --------------------------------------------------------------------------------------------


def factors_in_front(method: str) -> list[float]:
    """Of the products of parts of rank 4 and 1."""
    strategy, found = made(method), []
    for rank in (4, 1):
        network = build_part(strategy.network, Plan(Fraction(rank, RANK)))
        (factor,) = {float(getattr(network.get_submodule(path), FACTOR)) for path in paths_of_pairs(network)}
        found.append(factor)
    return found


def test_every_part_has_the_full_ranks_factor_but_for_a_sketch() -> None:
    assert factors_in_front("rbla") == [2.0, 2.0]
    assert factors_in_front("fslora") == [2.0, 8.0]


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"secure": SecureOptions(secure_aggregation=True)}, "secure-aggregation"),
        ({"guard": GuardOptions(guard_mean="median")}, "guard-mean"),
        ({"guard": GuardOptions(min_cover=2)}, "min-cover"),
        ({"dynamic_alpha": 0.1}, "dynamic-alpha"),
    ],
)
def test_what_leaves_no_factors_is_refused(settings: Mapping[str, Any], key: str) -> None:
    with pytest.raises(SettingError) as caught:
        METHODS["flexlora"](SPEC, Settings(tiers=SETTINGS.tiers, nodes=4, **settings))
    assert caught.value.key == key
    assert "FlexLoRA" in caught.value.allowed
    assert isinstance(made("flexlora").runner.main.average, FactorAverage)


def test_a_network_without_pairs_is_refused() -> None:
    with pytest.raises(SettingError, match="lora:16"):
        METHODS["rbla"](NetworkSpec("mlp", (1, 4, 4), 5, widths=(9, 7)))
