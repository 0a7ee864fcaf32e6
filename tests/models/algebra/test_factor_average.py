"""The factors of every device, told apart after they were averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial
from tempfile import TemporaryFile
from typing import Any

import pytest
import torch
from torch import Tensor

from models import Along, Axis, Kind, Layout, PartialAverage, Plan, Submodel
from models.algebra.axes import TensorLayout
from models.algebra.factor_average import FactorAverage
from models.algebra.pairs import Pair
from models.algebra.plans import submodel
from models.algebra.stack import Factors

ROWS, COLUMNS, RANK = 6, 5, 4


def pairs_layout(count: int = 2, between: Sequence[int] = ()) -> Layout:
    """Two pairs and a head, or more of them, with something behind some."""
    axes = {"in": Axis("in", COLUMNS, Kind.FIXED), "out": Axis("out", ROWS, Kind.FIXED)}
    axes |= {f"rank{i}": Axis(f"rank{i}", RANK, Kind.RANK) for i in range(count)}
    tensors = {"head": TensorLayout(shape=(3,), dims=(None,))}
    for i in range(count):
        rank = Along(f"rank{i}")
        tensors[f"b{i}"] = TensorLayout(shape=(ROWS, RANK), dims=(Along("out"), rank))
        tensors[f"a{i}"] = TensorLayout(shape=(RANK, COLUMNS), dims=(rank, Along("in")))
        if i in between:
            tensors[f"other{i}"] = TensorLayout(shape=(2,), dims=(None,))
    return Layout(axes, tensors)


def drawn(layout: Layout, seed: int) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return {name: torch.randn(tensor.shape, generator=draws) for name, tensor in layout.tensors.items()}


PLANS = [
    Plan(),
    Plan(Fraction(1, 2)),
    Plan(Fraction(3, 4), shift=2),  # wraps
    Plan(Fraction(1, 4), units=(("rank0", (1, 3)), ("rank1", (2,)))),
]


def fold(average: PartialAverage, parts: Sequence[Submodel], weights: Sequence[tuple[float, float]]) -> list[Tensor]:
    average.reset()
    differences = []
    for i, (part, (numerator, denominator)) in enumerate(zip(parts, weights, strict=True)):
        differences.append(torch.randn(part.numel, generator=torch.Generator().manual_seed(i)))
        average.add(part, differences[-1], numerator, denominator)
    return differences


def factors(average: FactorAverage, pair: Pair, before: Mapping[str, Tensor]) -> list[Factors]:
    stack = average.stack(pair, before)
    return [] if stack is None else list(stack.factors())


@pytest.mark.parametrize("in_memory", [1 << 30, 300, 0])
def test_factors_are_what_the_device_had_and_its_difference(in_memory: int) -> None:
    layout = pairs_layout()
    parts, before = [submodel(layout, plan) for plan in PLANS], drawn(layout, 9)
    weights = [(2.0, 2.0), (1.0, 2.0), (3.0, 3.0), (1.0, 1.0)]
    average = FactorAverage(layout, in_memory=in_memory)
    differences = fold(average, parts, weights)
    average.finish(before, scale=0.5)
    for pair in layout.pairs:
        found = factors(average, pair, before)
        assert [one.weight for one in found] == [2.0, 2.0, 3.0, 1.0]
        for one, part, difference, (numerator, denominator) in zip(found, parts, differences, weights, strict=True):
            moved, step = part.split(difference), 0.5 * numerator / denominator
            assert torch.allclose(one.b, before[pair.b][:, one.ranks] + step * moved[pair.b])
            assert torch.allclose(one.a, before[pair.a][one.ranks] + step * moved[pair.a])
    assert [one.ranks.tolist() for one in factors(average, layout.pairs[0], before)] == [
        [0, 1, 2, 3],
        [0, 1],
        [2, 3, 0],
        [1, 3],
    ]


def test_stacks_side_by_side_are_those_of_single_pairs() -> None:
    layout = pairs_layout()
    average, before = FactorAverage(layout), drawn(layout, 9)
    fold(average, [submodel(layout, plan) for plan in PLANS[:3]], [(1.0, 1.0), (2.0, 2.0), (1.0, 2.0)])
    average.finish(before)
    together = [(stack.left, stack.right.clone()) for stack in average.stacks(layout.pairs, before)]
    for pair, (left, right) in zip(layout.pairs, together, strict=True):
        alone = average.stack(pair, before)
        assert alone is not None
        assert torch.equal(alone.left, left)
        assert torch.equal(alone.right, right)
    fold(average, [submodel(layout, plan) for plan in PLANS], [(1.0, 1.0)] * 4)
    average.finish(before)
    with pytest.raises(ValueError, match="held alike"):  # the last device has other ranks of the second
        list(average.stacks(layout.pairs, before))


@pytest.mark.parametrize("between", [(), (1,), (0, 2)], ids=["none", "one", "two"])
def test_pairs_with_others_between_them_are_stacked_alike(between: Sequence[int]) -> None:
    """Pairs that are equally far from one another are read in one go; others are not, and say the same."""
    layout = pairs_layout(4, between)
    average, before = FactorAverage(layout), drawn(layout, 9)
    parts = [submodel(layout, plan) for plan in PLANS[:3]]
    differences = fold(average, parts, [(1.0, 1.0), (2.0, 2.0), (1.0, 2.0)])
    average.finish(before)
    stacks = average.stacks(layout.pairs, before)
    for pair, stack in zip(layout.pairs, stacks, strict=True):
        for one, part, difference, step in zip(stack.factors(), parts, differences, (1.0, 1.0, 0.5), strict=True):
            moved = part.split(difference)
            assert torch.allclose(one.b, before[pair.b][:, one.ranks] + step * moved[pair.b])
            assert torch.allclose(one.a, before[pair.a][one.ranks] + step * moved[pair.a])


class Disk:
    """A file that takes so many bytes a call, and so many in all; then it says so or, as some do, takes none."""

    def __init__(self, *, a_call: int, room: int, says: bool) -> None:
        self.file = TemporaryFile(buffering=0)  # noqa: SIM115, as it closes with this one
        self.a_call, self.room, self.says = a_call, room, says

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, content: memoryview) -> int:
        if not self.room and self.says:
            raise OSError("No space left on device")
        taken = self.file.write(content[: min(self.a_call, self.room)])
        self.room -= taken
        return taken


@pytest.mark.parametrize("room", [1 << 20, 40, 0])
@pytest.mark.parametrize("says", [True, False])
def test_a_disk_that_takes_less_than_all_loses_nothing(room: int, says: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = pairs_layout()
    part, before, average = submodel(layout, Plan()), drawn(layout, 9), FactorAverage(layout, in_memory=0)
    made = partial(Disk, a_call=12, room=room, says=says)
    monkeypatch.setattr("models.algebra.factor_average.tempfile.TemporaryFile", lambda **_: made())
    (difference,) = fold(average, [part], [(1.0, 1.0)])
    assert average.added == 1
    average.finish(before)
    (found,) = factors(average, layout.pairs[0], before)
    assert torch.allclose(found.b, before["b0"] + part.split(difference)["b0"])


def test_a_file_that_cannot_be_mapped_leaves_the_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: Any, **named: Any) -> None:
        raise ValueError("mmap length is greater than file size")

    monkeypatch.setattr("models.algebra.factor_average.np.memmap", refused)
    layout = pairs_layout()
    average = FactorAverage(layout, in_memory=0)
    fold(average, [submodel(layout, Plan())], [(1.0, 1.0)])
    assert average.added == len(factors(average, layout.pairs[0], drawn(layout, 9))) == 1


def test_all_but_pairs_is_averaged_as_ever() -> None:
    """Of these only who held them is counted, and they stay as they were, bit for bit."""
    layout = pairs_layout()
    parts, before = [submodel(layout, plan) for plan in PLANS], drawn(layout, 9)
    weights = [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0), (4.0, 4.0)]
    plain, kept = PartialAverage(layout), FactorAverage(layout)
    fold(plain, parts, weights)
    fold(kept, parts, weights)
    one, other = plain.finish(before), kept.finish(before)
    assert torch.equal(one["head"], other["head"])
    assert all(torch.equal(before[name], other[name]) for name in one if name != "head")
    for told, same in ((plain.denominators(), kept.denominators()), (plain.coverage(), kept.coverage())):
        assert all(torch.equal(told[name], same[name]) for name in told)


def test_a_refused_difference_leaves_no_factors_and_reset_forgets() -> None:
    layout = pairs_layout()
    part, average = submodel(layout, Plan()), FactorAverage(layout)
    with pytest.raises(ValueError, match="not finite"):
        average.add(part, torch.full((part.numel,), torch.nan))
    assert not factors(average, layout.pairs[0], drawn(layout, 0))
    average.add(part, torch.zeros(part.numel))
    assert len(factors(average, layout.pairs[0], drawn(layout, 0))) == 1
    average.reset()
    assert not factors(average, layout.pairs[0], drawn(layout, 0))


def test_who_asks_before_the_last_reply_asks_again() -> None:
    """What was found is of the replies until then: one more of the same part is another device."""
    layout = pairs_layout()
    part, before, average = submodel(layout, Plan()), drawn(layout, 9), FactorAverage(layout)
    for count in (1, 2, 3):
        average.add(part, torch.full((part.numel,), float(count)), 2.0 * count, 1.0 * count)
        who = average.who(layout.pairs[0])
        assert who is not None
        assert (who.lengths, who.weights) == ([RANK] * count, [1.0, 2.0, 3.0][:count])
    assert len(factors(average, layout.pairs[0], before)) == 3


def test_rounds_of_other_devices_share_memory_and_nothing_else() -> None:
    """Few after many, in other parts: as of an average that has seen no round before, and memory follows."""
    layout = pairs_layout()
    before, average, taken = drawn(layout, 9), FactorAverage(layout), []
    for clients in ([0, 1, 2] * 8, [1], [2, 0], [1, 1], [2, 1, 0]):
        parts, fresh = [submodel(layout, PLANS[i]) for i in clients], FactorAverage(layout)
        for one in (average, fresh):
            fold(one, parts, [(1.0, 1.0)] * len(parts))
            one.finish(before)
        found, wanted = average.stacks(layout.pairs, before), fresh.stacks(layout.pairs, before)
        for stack, other in zip(found, wanted, strict=True):
            assert torch.equal(stack.left, other.left)
            assert torch.equal(stack.right, other.right)
        taken.append(found.right.untyped_storage().nbytes() / found.right.nbytes)
    assert max(taken[2:]) <= 2  # of what the round needs, once the largest one is two rounds past


def test_of_a_sum_there_are_no_factors() -> None:
    layout = pairs_layout()
    part, average = submodel(layout, Plan()), FactorAverage(layout)
    with pytest.raises(ValueError, match="nobody's factors"):
        average.add_sum(part, torch.zeros(part.numel), 2.0, 2)
    assert average.added == 0


def test_a_device_that_held_some_rows_only_is_refused() -> None:
    layout = pairs_layout()
    cut: Mapping[str, Axis] = {**layout.axes, "out": Axis("out", ROWS)}
    layout = Layout(cut, layout.tensors)
    part, average = submodel(layout, Plan(Fraction(1, 2))), FactorAverage(layout)
    average.add(part, torch.zeros(part.numel))
    with pytest.raises(ValueError, match="a device held"):
        factors(average, layout.pairs[0], drawn(layout, 0))
