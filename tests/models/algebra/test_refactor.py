"""The best pair for a weighted sum of products, against products and singular values of dense matrices."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.algebra.refactor import SPARE, SPLITS, Factored, Split, refactored
from models.algebra.stack import Stack, Stacks, Who
from tests.models.algebra.stacked import refactor, stacked, starts_of

few = settings(max_examples=25, deadline=None)
EXACT = {torch.float32: 1e-5, torch.float64: 1e-10}


@dataclass(frozen=True, kw_only=True)
class Clients:
    """Pairs of unlike ranks, and what each of their ranks counts."""

    lefts: list[Tensor]
    rights: list[Tensor]
    weights: list[Tensor]

    @property
    def product(self) -> Tensor:
        """Σ w_k B_k A_k, in float64 and dense."""
        terms = zip(self.lefts, self.rights, self.weights, strict=True)
        return torch.stack([b.double() * w.double() @ a.double() for b, a, w in terms]).sum(0)

    @property
    def ranks(self) -> int:
        """How many were stacked."""
        return sum(b.shape[1] for b in self.lefts)

    def refactored(self, rank: int) -> Factored:
        """As one pair."""
        stack = stacked(self.lefts, self.rights, [1.0] * len(self.lefts))
        return refactor(stack, rank, torch.cat(self.weights))


@st.composite
def clients(draw: st.DrawFn, dtype: torch.dtype = torch.float64, most: int = 6) -> Clients:
    """Factors of any size and of unlike lengths; weights by rank, some of them zero."""
    draws = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    rows, columns = draw(st.integers(3, 40)), draw(st.integers(3, 40))
    ranks = draw(st.lists(st.integers(1, 4), min_size=1, max_size=most))
    counts = [draw(st.sampled_from((0.0, 1.0, 1.0))) if i else 1.0 for i in range(len(ranks))]
    return Clients(
        lefts=[
            10 ** draw(st.integers(-2, 2)) * torch.randn(rows, rank, dtype=dtype, generator=draws) for rank in ranks
        ],
        rights=[torch.randn(rank, columns, dtype=dtype, generator=draws) for rank in ranks],
        weights=[
            count * (0.1 + torch.rand(rank, dtype=dtype, generator=draws))
            for rank, count in zip(ranks, counts, strict=True)
        ],
    )


def close(found: Tensor, product: Tensor, tolerance: float) -> bool:
    return bool((found.double() - product).norm() <= tolerance * product.norm())


@few
@given(st.data(), st.sampled_from((torch.float32, torch.float64)), st.sampled_from(SPLITS))
def test_the_product_is_the_weighted_sum_where_the_rank_suffices(
    data: st.DataObject, dtype: torch.dtype, split: Split
) -> None:
    given_ = data.draw(clients(dtype))
    rows, columns = given_.product.shape
    rank = min(rows, columns, given_.ranks + data.draw(st.integers(0, 3)))
    b, a = given_.refactored(rank).pair(split)
    assert (b.shape, a.shape, b.dtype) == ((rows, rank), (rank, columns), dtype)
    assert close(b @ a, given_.product, EXACT[dtype])


@few
@given(st.data())
def test_with_fewer_ranks_it_is_the_best_approximation(data: st.DataObject) -> None:
    given_ = data.draw(clients(most=12))
    rank = data.draw(st.integers(1, min(given_.product.shape)))
    factored = given_.refactored(rank)
    values = torch.linalg.svdvals(given_.product)
    b, a = factored.pair()
    exact = given_.ranks < 3 * (rank + SPARE) or min(given_.product.shape) < rank + SPARE  # else it is iterated
    tolerance = 1e-9 if exact else 1e-4
    assert torch.allclose(factored.values, values[:rank], rtol=tolerance, atol=tolerance * float(values[0]))
    error, least = (b @ a - given_.product).norm(), values[rank:].square().sum().sqrt()
    assert error <= (1 + 1e-9) * least + tolerance * values[0]


@few
@given(st.data(), st.sampled_from(SPLITS))
def test_a_part_of_the_pair_is_the_best_of_its_rank_too(data: st.DataObject, split: Split) -> None:
    """Directions come by falling values, so what a device of rank r takes is the best r of them."""
    given_ = data.draw(clients(most=12))
    rank = min(given_.product.shape)
    b, a = given_.refactored(rank).pair(split)
    values = torch.linalg.svdvals(given_.product)
    for part in range(1, rank + 1):
        error, least = (b[:, :part] @ a[:part] - given_.product).norm(), values[part:].square().sum().sqrt()
        assert error <= (1 + 1e-9) * least + 1e-9 * values[0]


@few
@given(st.data())
def test_sides_are_orthonormal_and_signs_are_settled(data: st.DataObject) -> None:
    given_ = data.draw(clients())
    rank = min(*given_.product.shape, given_.ranks)
    factored = given_.refactored(rank)
    one = torch.eye(rank, dtype=torch.float64)
    assert torch.allclose(factored.left.T @ factored.left, one, atol=1e-9)
    assert torch.allclose(factored.right @ factored.right.T, one, atol=1e-9)
    assert (factored.left.gather(0, factored.left.abs().argmax(0, keepdim=True)) > 0).all()
    assert (factored.values.diff() <= 0).all()


def stack_of(clients: int, rank: int, spread: float, rows: int = 96, columns: int = 80) -> Stack:
    """What many clients made of one pair that they began with."""
    draws = torch.Generator().manual_seed(7)
    b, a = (torch.randn(size, generator=draws) for size in ((rows, rank), (rank, columns)))
    sizes = (rows, rank * clients), (rank * clients, columns)
    left, right = (spread * torch.randn(size, generator=draws) for size in sizes)
    who = Who(
        rank=rank,
        ranks=torch.arange(rank).repeat(clients),
        steps=torch.ones(rank * clients),
        weights=[1.0 + i for i in range(clients)],
        lengths=[rank] * clients,
    )
    return Stack(changes=left, right=a.repeat(clients, 1) + right, b=b, a=a, who=who)


def product_of(stack: Stack) -> Tensor:
    return stack.left.double() * stack.who.shares @ stack.right.double()


def test_products_with_stacks_are_those_with_their_sums() -> None:
    stacks = [stack_of(5, 3, spread) for spread in (0.4, 0.1)]
    x, y = torch.randn(2, 4, 80), torch.randn(2, 4, 96)
    for each in (stacks[0].who.shares, stacks[0].who.shares_of_holders):
        products = torch.stack([(stack.left * each.float()) @ stack.right for stack in stacks])
        together = Stacks.of(stacks)
        assert torch.allclose(together.outputs(x, each), x @ products.mT, atol=1e-4)
        assert torch.allclose(together.inputs(y, each), y @ products, atol=1e-4)
        assert torch.allclose(together.at([1]).inputs(y[1:], each), y[1:] @ products[1:], atol=1e-4)
    product = product_of(stacks[0]).float()
    summed = torch.stack([one.weight / 15 * one.b @ one.a for one in stacks[0].factors()]).sum(0)
    assert torch.allclose(summed, product, atol=1e-4)


def test_steps_count_changes_and_not_what_was_there() -> None:
    stack = stack_of(5, 3, 0.4)
    steps = torch.tensor([0.5, 1.0, 2.0, 0.25, 3.0]).repeat_interleave(3)
    slower = replace(stack, who=replace(stack.who, steps=steps))
    assert torch.allclose(slower.left, stack.b.repeat(1, 5) + steps * stack.changes)
    x, y, each = torch.randn(1, 4, 80), torch.randn(1, 4, 96), stack.who.shares
    product, together = (slower.left * each.float()) @ stack.right, Stacks.of([slower])
    assert torch.allclose(together.outputs(x, each)[0], x[0] @ product.T, atol=1e-4)
    assert torch.allclose(together.inputs(y, each)[0], y[0] @ product, atol=1e-4)


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.5, 3.0])
def test_a_tall_stack_has_the_same_directions(spread: float) -> None:
    """Found by iteration where a few directions stand out, by the core where they do not: within 1e-4 of the best."""
    stack = stack_of(12, 4, spread)
    b, a = refactor(stack, 4).pair()
    product = product_of(stack)
    values = torch.linalg.svdvals(product)
    error, least = (b @ a - product).norm(), values[4:].square().sum().sqrt()
    assert error <= (1 + 1e-4) * least + 1e-5 * product.norm()


def test_a_tall_stack_of_few_directions_is_met_exactly() -> None:
    stack = stack_of(20, 4, 0.0)
    b, a = refactor(stack, 4).pair()
    assert close(b @ a, product_of(stack), 1e-5)


def test_the_same_stacks_give_the_same_bits() -> None:
    stack = stack_of(12, 4, 0.1)
    one, two = refactor(stack, 4), refactor(stack_of(12, 4, 0.1), 4)
    assert torch.equal(one.left, two.left)
    assert torch.equal(one.right, two.right)


def test_side_by_side_each_is_what_it_is_alone() -> None:
    """Where one settles at once, one after some steps, one has less than R directions, and one none."""
    stacks = [stack_of(12, 4, spread) for spread in (0.0, 0.1, 3.0)]
    flat, nothing = stack_of(12, 4, 0.0), stack_of(12, 4, 0.0)
    flat.b[:, 2:4] = 0
    for side in (nothing.b, nothing.changes):
        side.zero_()
    stacks += [flat, nothing]
    several, shares = Stacks.of(stacks), stacks[0].who.shares
    together = refactored(several, 4, shares, starts_of(several, 4, shares))
    for place, stack in enumerate(stacks):
        b, a = together[place].pair()
        alone = refactor(stack, 4).pair()
        product = product_of(stack)
        assert close(b @ a, (alone[0] @ alone[1]).double(), 1e-5)
        error, least = (b @ a - product).norm(), torch.linalg.svdvals(product)[4:].square().sum().sqrt()
        assert error <= (1 + 1e-4) * least + 1e-5 * product.norm()


def test_alike_starts_are_told_apart_by_householder() -> None:
    """Of a start whose vectors are one another's the products tell nothing apart."""
    stack = stack_of(20, 4, 0.1)
    start = torch.cat([stack.a, stack.a[:2] + 1e-6 * torch.randn(2, 80, generator=torch.Generator().manual_seed(1))])
    assert torch.allclose(refactor(stack, 4, start=start).values, refactor(stack, 4).values, rtol=1e-4)


def test_a_given_start_changes_nothing_but_the_work() -> None:
    stack = stack_of(12, 4, 0.1)
    assert torch.allclose(refactor(stack, 4, start=stack.a).values, refactor(stack, 4).values, rtol=1e-4)


def test_nothing_gives_nothing() -> None:
    stack = stacked([torch.zeros(5, 2)], [torch.zeros(2, 4)], [1.0])
    b, a = refactor(stack, 3).pair()
    assert not (b @ a).any()
    assert (b.shape, a.shape) == ((5, 3), (3, 4))
    assert refactor(stack, 2).least_rank(0.9) == 1


def test_energy_counts_squares_of_values() -> None:
    b = torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.5]))
    factored = refactor(stacked([b], [torch.eye(4)], [1.0]), 4)
    assert [factored.least_rank(share) for share in (0.1, 0.75, 0.76, 0.95, 0.98, 0.99, 1.0)] == [1, 1, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("clients", [3, 40], ids=["products of the stack", "strips of the sum"])
def test_the_energy_of_a_sum_is_its_squared_norm(clients: int) -> None:
    stack = stack_of(clients, 3, 0.4)
    wanted = float(product_of(stack).square().sum())
    assert stack.energy(stack.who.shares) == pytest.approx(wanted, rel=1e-5)


def test_the_energy_can_be_of_more_than_the_directions_here() -> None:
    b = torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.5]))
    stack = stacked([b], [torch.eye(4)], [1.0])
    two, total = refactor(stack, 2), torch.tensor(stack.energy(torch.ones(4)))
    assert float(total) == pytest.approx(21.25)
    assert [two.least_rank(share) for share in (0.79, 0.81)] == [1, 2]
    assert [two.least_rank(share, total) for share in (0.75, 0.79, 0.99)] == [1, 2, 2]


def test_directions_that_cannot_be_are_zero() -> None:
    draws = torch.Generator().manual_seed(3)
    b, a = torch.randn(9, 8, generator=draws), torch.randn(8, 7, generator=draws)
    factored = refactor(stacked([b], [a], [1.0]), 8)
    left, right = factored.pair()
    assert (left.shape, right.shape) == ((9, 8), (8, 7))
    assert close(left @ right, b.double() @ a.double(), 1e-5)
    assert not factored.values[7:].any()
    assert not factored.right[7:].any()


def test_weights_of_holders_sum_to_one_by_rank() -> None:
    ranks = torch.tensor([0, 1, 2, 0, 0, 1])
    who = Who(rank=3, ranks=ranks, steps=torch.ones(6), weights=[1, 2, 5], lengths=[3, 1, 2])
    assert who.shares.tolist() == pytest.approx([1 / 8] * 3 + [2 / 8] + [5 / 8] * 2)
    assert who.shares_of_holders.tolist() == pytest.approx([1 / 8, 1 / 6, 1, 2 / 8, 5 / 8, 5 / 6])


@pytest.mark.parametrize("clients", [3, 12], ids=["core", "iteration"])
def test_what_does_not_fit_is_refused(clients: int) -> None:
    """Fewer rows than R would give fewer directions than R, and no word of it."""
    stack = stack_of(clients, 4, 0.1)
    with pytest.raises(ValueError, match="3 rows to start with: allowed are 4"):
        refactor(stack, 4, start=stack.a[:3])
    with pytest.raises(ValueError, match="at least 1"):
        refactor(stack, 0)
