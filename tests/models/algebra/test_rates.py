"""Rates by group of axes: their order, their words, and that parts lie inside each other as the rates say."""

from __future__ import annotations

from fractions import Fraction
from math import inf, nan
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import Layout, NetworkSpec, Plan, build, build_part, completed, layout, submodel
from models.algebra.plans import submodel as cut
from models.algebra.rates import FULL, Rate, Rates, ascending, joined, met, rate_of, read_rate, share_of, single
from models.norms.layers import BatchNormPerWidth
from tests.models.generators import RATES, layouts, rates
from tests.models.parts import loaded, rest_at_zero_of

GROUPS = ("heads", "mlp", "stream")
SHARES = st.sampled_from(RATES)


@given(rates(GROUPS), rates(GROUPS))
def test_the_order_is_that_of_every_group(one: Rate, other: Rate) -> None:
    inside = all(rate_of(one, group) <= rate_of(other, group) for group in (*GROUPS, "channels"))
    assert (one <= other) == (other >= one) == inside
    assert (one < other) == (inside and one != other)
    assert met((one, other)) <= one <= joined((one, other))
    assert (met((one, other)) == one) == inside


@given(rates(GROUPS))
def test_rates_are_what_they_say(rate: Rate) -> None:
    assert read_rate(str(rate)) == rate
    assert read_rate(str(rate).replace(" ", ", ")) == rate
    assert isinstance(rate, Rates) == (len({rate_of(rate, group) for group in (*GROUPS, "")}) > 1)


@given(st.lists(rates(GROUPS), min_size=2, max_size=5))
def test_no_rate_comes_before_one_inside_it(found: list[Rate]) -> None:
    ordered = ascending(found)
    assert set(ordered) == set(found)
    assert ordered == ascending(reversed(found))
    assert not any(later < sooner for i, sooner in enumerate(ordered) for later in ordered[i:])


@given(st.lists(SHARES, min_size=1))
def test_numbers_are_in_their_own_order(found: list[Fraction]) -> None:
    assert ascending(found) == sorted(set(found))
    assert (met(found), joined(found)) == (min(found), max(found))
    assert all(single(share) == share for share in found)


@pytest.mark.parametrize(
    "text",
    ["", "mlp", "mlp=", "=1/2", "mlp=1/2 mlp=1/4", "1/2 1/4", "mlp=2", "mlp=0", "mlp=1/0", "mlp=1e-999999999", "M=1/2"],
)
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="allowed is"):
        read_rate(text)


@pytest.mark.parametrize(
    ("rest", "groups"),
    [
        (FULL, ()),
        (FULL, (("a", FULL),)),
        (FULL, (("b", Fraction(1, 2)), ("a", Fraction(1, 2)))),
        (Fraction(2), (("a", FULL),)),
        (FULL, tuple((f"a{i:02}", Fraction(1, 2)) for i in range(17))),
    ],
)
def test_there_is_one_way_to_say_it(rest: Fraction, groups: tuple[tuple[str, Fraction], ...]) -> None:
    with pytest.raises(ValueError, match=r"allowed is|that of the rest"):
        Rates(rest, groups)


@given(st.data(), layouts())
def test_parts_lie_inside_each_other(data: st.DataObject, whole: Layout) -> None:
    one, other = data.draw(rates(whole.groups)), data.draw(rates(whole.groups))
    if whole.groups:
        other = joined((one, other))
    elif one > other:
        one, other = other, one
    narrow, wide = cut(whole, Plan(one)), cut(whole, Plan(other))
    assert set(narrow) <= set(wide)
    for name, block in narrow.items():
        for runs, others in zip(block.runs, wide[name].runs, strict=True):
            assert _units(runs) <= _units(others)


def _units(runs: tuple[tuple[int, int], ...]) -> set[int]:
    return {start + i for start, length in runs for i in range(length)}


def test_a_rate_for_a_group_that_is_not_there() -> None:
    spec = completed(NetworkSpec("mlp", (1, 4, 4), 5, widths=(8, 4)))
    with pytest.raises(ValueError, match=r"rates for \['mlp'\]: allowed is \['features'\]"):
        submodel(spec, Plan(read_rate("mlp=1/2")))


TEXT = NetworkSpec("transformer", (9,), 7, widths=(24, 12), blocks=(2,), vocabulary=11, heads=4, whole_heads=True)


@pytest.mark.parametrize("rate", ["mlp=1/4", "heads=1/4", "mlp=1/4 heads=1/2"])
def test_a_part_is_the_whole_with_zeros(rate: str) -> None:
    """Exact where no norm runs over what is cut: the stream is whole, and heads are."""
    spec, plan = completed(TEXT), Plan(read_rate(rate))
    draws = torch.Generator().manual_seed(1)
    state = {name: torch.randn(one.shape, generator=draws) for name, one in layout(spec).tensors.items()}
    part = submodel(spec, plan)
    tokens = torch.randint(1, 11, (5, 9), generator=draws)
    small, zeroed = (
        loaded(build_part(spec, plan), part.gather(state)),
        loaded(build(spec), rest_at_zero_of(part, state)),
    )
    full = loaded(build(spec), state)(tokens)
    torch.testing.assert_close(small(tokens), zeroed(tokens), rtol=1e-4, atol=1e-4)
    assert (small(tokens) - full).abs().max() > 0.1


def test_statistics_of_the_widths_inside() -> None:
    """Of widths that lie in no order a part has those of the widths inside its own."""
    names = ["inner=1/4 stream=1/2", "inner=1/2", "stream=1/2", "1"]
    found = ascending(map(read_rate, names))
    assert [str(rate) for rate in found] == ["inner=1/4 stream=1/2", "inner=1/2", "stream=1/2", "1"]
    spec = NetworkSpec("resnet", (1, 8, 8), 5, widths=(8, 8), blocks=(1, 1), norm="batch-per-width", rates=tuple(found))
    spec = completed(spec)
    for rate in found:
        plan = Plan(rate)
        network, part = build_part(spec, plan), submodel(spec, plan)
        shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        assert shapes == {name: block.local_shape for name, block in part.items()}
        norms = [one for one in network.modules() if isinstance(one, BatchNormPerWidth)]
        inside = [i for i, other in enumerate(found) if other <= rate]
        assert all({name for name, _ in one.named_buffers()} == _statistics(inside) for one in norms)
    assert NetworkSpec.from_json(spec.to_json()) == spec


def _statistics(indices: list[int]) -> set[str]:
    return {f"{kind}_{i}" for kind in ("mean", "variance") for i in indices}


def test_a_share_of_a_whole_number_is_rounded_up() -> None:
    assert (share_of(0.07, 100), share_of(0.01, 1), share_of(1.0, 10), share_of(0.1, 0)) == (7, 1, 10, 0)


@pytest.mark.parametrize("half", [0.5, "1/2", "0.5", np.float32(0.5), Fraction(1, 2)])
def test_a_share_in_python_is_exact_however_it_is_written(half: Any) -> None:
    exact = Fraction(1, 2)
    for plan, same in ((Plan(half), Plan(exact)), (Plan(keep=half), Plan(keep=exact))):
        assert (plan, hash(plan), plan.to_json()) == (same, hash(same), same.to_json())
    assert type(Plan(half).rate) is Fraction
    network = completed(NetworkSpec("mlp", (1, 8, 8), 10, widths=(16, 8)))
    assert submodel(network, Plan(half)).numel == submodel(network, Plan(exact)).numel


def test_shares_in_python() -> None:
    one: Any
    for one in (1, 1.0, "1"):
        assert Plan(one) == Plan()
    tenth: Any = 0.1
    assert Plan(tenth).rate == Fraction(1, 10)
    groups: Any = "1/2 mlp=1/4"
    assert Plan(groups).rate == read_rate(groups)


@pytest.mark.parametrize("share", ["half", "1/0", None, True, nan, inf, [0.5], 0, 1.5, -0.5])
def test_what_is_no_share_in_python(share: Any) -> None:
    with pytest.raises(ValueError, match=r"^rate = .*: allowed is"):
        Plan(share)
    with pytest.raises(ValueError, match=r"^keep = .*: allowed is"):
        Plan(keep=share)
