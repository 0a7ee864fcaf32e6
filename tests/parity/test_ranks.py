"""Rules for pairs of factors against plain transcriptions of the papers' formulas: lists, dense products, one SVD."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from models import NetworkSpec
from models.adapters.adapter import Adapter
from models.adapters.low_rank import FACTOR, paths_of_pairs
from models.algebra.factor_average import FactorAverage
from models.algebra.pairs import Pair
from models.algebra.plans import Plan
from models.algebra.stack import Stack, Stacks
from models.errors import SettingError
from models.networks.build import build_part, submodel
from strategies import METHODS, FlowerStrategy, Settings
from strategies.aggregation.global_state import GlobalState
from strategies.methods.ranks.products import Refactored
from strategies.robustness.options import GuardOptions
from strategies.secure.options import SecureOptions
from strategies.tiers.tier import parse_ranks
from tests.parity.rounds import node

RANK = 4
SPEC = NetworkSpec("mlp", (1, 4, 4), 5, widths=(9, 7), norm="none", adapter=Adapter(rank=RANK, alpha=8.0))
SETTINGS = Settings(tiers=parse_ranks("a:4, b:2, c:1", RANK), nodes=4)
RANKS = [4, 2, 2, 1]
EXAMPLES = [10, 30, 5, 40]
SHARES = [n / sum(EXAMPLES) for n in EXAMPLES]


def made(method: str, **options: Any) -> FlowerStrategy:
    return METHODS[method](SPEC, SETTINGS, **options)


@dataclass(frozen=True, kw_only=True)
class Replied:
    """A round: what devices of four ranks began with, what they made of it, and the server's state after it."""

    strategy: FlowerStrategy
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    left: Sequence[Mapping[str, Tensor]]

    @property
    def pairs(self) -> Sequence[Pair]:
        return self.strategy.runner.layout.pairs

    def factors(self, pair: Pair) -> list[tuple[Tensor, Tensor]]:
        """What every device sent."""
        return [(one[pair.b], one[pair.a]) for one in self.left]


def replied(method: str, moved: float = 0.3, plans: Sequence[Plan] | None = None, **options: Any) -> Replied:
    """Fold differences as a run does: the strategy's own average, step and refinement."""
    strategy = made(method, **options)
    layout, state = strategy.runner.layout, strategy.runner.main
    draws = torch.Generator().manual_seed(3)
    state.flat.copy_(torch.randn(state.flat.shape, generator=draws))
    before = {name: tensor.clone() for name, tensor in state.tensors.items()}
    plans = [Plan(Fraction(rank, RANK)) for rank in RANKS] if plans is None else plans
    left = []
    for plan, examples in zip(plans, EXAMPLES, strict=True):
        part = submodel(strategy.network, plan)
        difference = moved * torch.randn(part.numel, generator=draws)
        weight = float(examples) if strategy.BY_EXAMPLES else 1.0
        state.average.add(part, difference, weight, weight)
        left.append({name: part.gather(before)[name] + piece for name, piece in part.split(difference).items()})
    _take(strategy, state)
    assert layout.pairs
    return Replied(strategy=strategy, before=before, after=state.tensors, left=left)


def _take(strategy: FlowerStrategy, state: GlobalState) -> None:
    before = {name: tensor.clone() for name, tensor in state.tensors.items()}
    state.average.finish(state.tensors, out=state.tensors)
    if strategy.refines:
        strategy.refine(strategy.context(1), before, state.tensors, state.average, {})


def near(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> bool:
    return one.shape == other.shape and bool((one - other).norm() <= tolerance * other.norm().clamp_min(1e-9))


def best(product: Tensor) -> Tensor:
    """Of rank R, by a dense SVD."""
    u, values, vh = torch.linalg.svd(product)
    found: Tensor = (u[:, :RANK] * values[:RANK]) @ vh[:RANK]
    return found


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
        assert torch.equal(idle.after[pair.a][0], idle.before[pair.a][0]) or near(
            idle.after[pair.a][0], idle.before[pair.a][0]
        )
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


# ---- products --------------------------------------------------------------------------------------------------------


def rings(done: Replied, pair: Pair) -> Tensor:
    """raFLoRA: every ring of ranks by itself, over those who hold it."""
    edges = [0, *sorted(set(RANKS))]
    total = torch.zeros(done.before[pair.b].shape[0], done.before[pair.a].shape[1])
    for low, high in pairwise(edges):
        held = [(b, a, n) for (b, a), n in zip(done.factors(pair), EXAMPLES, strict=True) if b.shape[1] >= high]
        count = sum(n for *_, n in held)
        for b, a, n in held:
            total += n / count * b[:, low:high] @ a[low:high]
    return total


def mean_product(done: Replied, pair: Pair) -> Tensor:
    products = zip(done.factors(pair), SHARES, strict=True)
    return torch.stack([share * b @ a for (b, a), share in products]).sum(0)


@pytest.mark.parametrize(
    ("method", "product"), [("flexlora", mean_product), ("hlora", mean_product), ("raflora", rings)]
)
def test_the_new_pair_is_the_best_for_the_product(method: str, product: Callable[[Replied, Pair], Tensor]) -> None:
    done = replied(method)
    for pair in done.pairs:
        wanted = best(product(done, pair))
        assert near(done.after[pair.b] @ done.after[pair.a], wanted)
        # and a device of rank 2 starts with the best two of them
        u, values, vh = torch.linalg.svd(wanted)
        assert near(done.after[pair.b][:, :2] @ done.after[pair.a][:2], (u[:, :2] * values[:2]) @ vh[:2])


def test_who_carries_the_values() -> None:
    """Orthonormal are FlexLoRA's A and HLoRA's B; raFLoRA's are as long as each other."""
    one = torch.eye(RANK)
    flexlora, hlora, raflora = map(replied, ("flexlora", "hlora", "raflora"))
    for pair in flexlora.pairs:
        assert torch.allclose(flexlora.after[pair.a] @ flexlora.after[pair.a].T, one, atol=1e-4)
        assert torch.allclose(hlora.after[pair.b].T @ hlora.after[pair.b], one, atol=1e-4)
        b, a = raflora.after[pair.b], raflora.after[pair.a]
        assert torch.allclose(b.T @ b, a @ a.T, atol=1e-3)


def share_of_energy(values: Tensor, energy: float) -> int:
    """How many values have the share, of R at most."""
    squares = values.square()
    return min(RANK, 1 + int((squares.cumsum(0) < energy * squares.sum()).sum()))


@pytest.mark.parametrize(("energy", "tells"), [(0.5, False), (0.9, True), (0.975, True)])
def test_florist_keeps_the_directions_with_the_energy(energy: float, tells: bool) -> None:
    """Of the whole product's; of the R leading values' it would often be with fewer."""
    done = replied("florist", moved=1.0, energy=energy)
    fewer = 0
    for pair in done.pairs:
        u, values, vh = torch.linalg.svd(mean_product(done, pair))
        kept = share_of_energy(values, energy)
        fewer += share_of_energy(values[:RANK], energy) < kept
        assert near(done.after[pair.b] @ done.after[pair.a], (u[:, :kept] * values[:kept]) @ vh[:kept])
        assert not done.after[pair.b][:, kept:].any()
        assert torch.equal(done.after[pair.a][kept:], done.before[pair.a][kept:])  # they can learn again
    assert bool(fewer) is tells


@pytest.mark.parametrize("spread", [0.05, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("energy", [0.3, 0.6, 0.9, 0.99])
def test_florist_keeps_as_many_of_many_devices(spread: float, energy: float) -> None:
    """Directions are sought there, and the energy is reckoned only where what they leave out could tell."""
    draws = torch.Generator().manual_seed(11)
    begun = torch.randn(40, RANK, generator=draws), torch.randn(RANK, 30, generator=draws)
    lefts = [spread * torch.randn(40, RANK, generator=draws) for _ in range(12)]
    rights = [spread * torch.randn(RANK, 30, generator=draws) for _ in range(12)]
    stack = Stack.of(lefts, rights, [1.0 + i for i in range(12)], begun)
    rule = METHODS["florist"](SPEC, SETTINGS, energy=energy)
    assert isinstance(rule, Refactored)
    product = stack.left.double() * stack.who.shares @ stack.right.double()
    kept = share_of_energy(torch.linalg.svdvals(product), energy)
    b, _ = rule.joined(Stacks.of([stack]))
    assert int(b[0].any(0).sum()) == kept


PRODUCTS = ["flexlora", "hlora", "raflora", "florist"]


@pytest.mark.parametrize("method", PRODUCTS)
def test_where_the_sum_is_zero_every_rank_can_still_learn(method: str) -> None:
    rule = METHODS[method](SPEC, SETTINGS)
    assert isinstance(rule, Refactored)
    stack = Stack.of([torch.zeros(6, 3)], [torch.zeros(3, 5)], [1.0], (torch.zeros(6, 3), torch.randn(3, 5)))
    b, a = rule.joined(Stacks.of([stack]))
    assert not b.any()
    assert torch.equal(a[0], stack.a)


@pytest.mark.parametrize("method", PRODUCTS)
def test_a_rank_beyond_a_layers_smaller_side_keeps_a(method: str) -> None:
    rule, draws = METHODS[method](SPEC, SETTINGS), torch.Generator().manual_seed(4)
    assert isinstance(rule, Refactored)
    sizes = (9, 8), (8, 7), (8, 7)
    left, right, a = (torch.randn(size, generator=draws) for size in sizes)
    stack = Stack.of([left], [right], [1.0], (torch.zeros(9, 8), a))
    ((b,), (a,)) = rule.joined(Stacks.of([stack]))
    assert not b[:, 7].any()
    assert torch.equal(a[7], stack.a[7])
    if method != "florist":
        assert near(b @ a, stack.left @ stack.right)


@pytest.mark.parametrize("method", ["zero-padding", "hetlora"])
def test_ranks_that_nobody_held_stay_as_they_were(method: str) -> None:
    done = replied(method, plans=[Plan(Fraction(rank, RANK)) for rank in (2, 2, 1, 1)])
    for pair in done.pairs:
        assert torch.equal(done.after[pair.a][2:], done.before[pair.a][2:])
        assert torch.equal(done.after[pair.b][:, 2:], done.before[pair.b][:, 2:])
        assert not near(done.after[pair.a][:2], done.before[pair.a][:2], 0.01)


@pytest.mark.parametrize("method", ["rbla", "zero-padding", "hetlora", "fslora", "flexlora", "hlora", "raflora"])
def test_equal_ranks_and_equal_devices_are_plain_training(method: str) -> None:
    """Devices that all hold everything and send the same: the product is theirs, whatever the rule."""
    strategy, draws = made(method), torch.Generator().manual_seed(1)
    state = strategy.runner.main
    state.flat.copy_(torch.randn(state.flat.shape, generator=draws))
    part, difference = submodel(strategy.network, Plan()), 0.3 * torch.randn(state.flat.shape, generator=draws)
    left = {name: state.tensors[name] + piece for name, piece in part.split(difference).items()}
    for weight in (1.0, 2.0):
        state.average.add(part, difference, weight, weight)
    _take(strategy, state)
    for pair in strategy.runner.layout.pairs:
        assert near(state.tensors[pair.b] @ state.tensors[pair.a], left[pair.b] @ left[pair.a])
    head = next(name for name in left if not any(name in (pair.a, pair.b) for pair in strategy.runner.layout.pairs))
    assert near(state.tensors[head], left[head])


def test_the_product_of_averages_is_not_the_average_of_products() -> None:
    """Which is why a rule about products needs every device's factors."""
    plain, product = replied("rbla"), replied("flexlora")
    for pair in plain.pairs:
        wanted = mean_product(product, pair)
        of_means = (plain.after[pair.b] @ plain.after[pair.a] - wanted).norm()
        of_products = (product.after[pair.b] @ product.after[pair.a] - wanted).norm()
        assert of_products < of_means


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
