"""Rules that average products of factors, against dense products and one SVD."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from models.algebra.pairs import Pair
from models.algebra.plans import Plan
from models.algebra.stack import Stacks
from models.networks.build import submodel
from strategies import METHODS
from strategies.methods.ranks.products import Refactored
from tests.models.algebra.stacked import stacked
from tests.parity.rank_rounds import (
    CONVOLUTIONS,
    EXAMPLES,
    RANK,
    RANKS,
    SETTINGS,
    SHARES,
    SPEC,
    Replied,
    best,
    made,
    near,
    replied,
    taken,
)


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


@pytest.mark.parametrize("method", ["flexlora", "hlora", "raflora"])
def test_of_no_more_than_r_ranks_nothing_is_lost_beside_convolutions_either(method: str) -> None:
    """Four devices of one rank each: the new pairs have the sum of their products, kernels and all."""
    done = replied(method, plans=[Plan(Fraction(1, RANK))] * len(RANKS), spec=CONVOLUTIONS)
    assert len(done.pairs) == 3
    for pair in done.pairs:
        assert near(done.after[pair.b] @ done.after[pair.a], mean_product(done, pair), 1e-5)


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
    stack = stacked(lefts, rights, [1.0 + i for i in range(12)], begun)
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
    stack = stacked([torch.zeros(6, 3)], [torch.zeros(3, 5)], [1.0], (torch.zeros(6, 3), torch.randn(3, 5)))
    b, a = rule.joined(Stacks.of([stack]))
    assert not b.any()
    assert torch.equal(a[0], stack.a)


@pytest.mark.parametrize("method", PRODUCTS)
def test_a_rank_beyond_a_layers_smaller_side_keeps_a(method: str) -> None:
    rule, draws = METHODS[method](SPEC, SETTINGS), torch.Generator().manual_seed(4)
    assert isinstance(rule, Refactored)
    sizes = (9, 8), (8, 7), (8, 7)
    left, right, a = (torch.randn(size, generator=draws) for size in sizes)
    stack = stacked([left], [right], [1.0], (torch.zeros(9, 8), a))
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
    taken(strategy, state)
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
