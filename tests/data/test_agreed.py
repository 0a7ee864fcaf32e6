"""Facts of what devices say: honest ones as if pooled, and no single one decides whether there is a task, or what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from data import DataSettings, InputFacts, Summary, agreed, facts_from
from data.channel_sums import channel_sums
from models.randomness import generator

SETTINGS = DataSettings(dataset="image-folder", partition="own", image_size=4, image_channels=1, num_clients=10)
FORM = "[1, 4, 4]"
Change = Callable[[Summary], Summary]


def said(node: int, *, classes: Mapping[str, int] | None = None, scale: float = 1.0) -> Summary:
    """What a device says of twenty pictures."""
    values = scale * generator(1, 0, node, "pictures").uniform(0, 255, (20, 1, 4, 4))
    found = channel_sums([values.astype(np.float32)])
    counts = {"class": dict(classes or {f"class {node % 3}": 12, f"class {(node + 1) % 3}": 8}), "shape": {FORM: 20}}
    return Summary(
        counts=counts, sums={"values": found.sums}, least={"values": found.least}, greatest={"values": found.greatest}
    )


TEN = [said(node) for node in range(10)]


def make(summary: Summary) -> InputFacts:
    return facts_from(SETTINGS, summary)


def of(*, leave_out: int | None = None) -> InputFacts:
    return make(sum((one for i, one in enumerate(TEN) if i != leave_out), start=Summary()))


def changed(**fields: Any) -> Summary:
    told = TEN[4]
    return Summary(
        counts={**told.counts, **fields.get("counts", {})},
        sums={**told.sums, **fields.get("sums", {})},
        least=told.least,
        greatest=told.greatest,
    )


LIES: dict[str, Summary] = {
    "pictures of another shape": changed(counts={"shape": {"[1, 9, 9]": 20}}),
    "a shape that is none": changed(counts={"shape": {"nothing": 20}}),
    "sums of another length": changed(sums={"values": (20.0, 1.0)}),
    "sums of something else": changed(sums={"elsewhere": (1.0,)}),
    "values of 1e30": changed(sums={"values": (320.0, 320e30, 320e60)}),
    "values beyond all numbers": changed(sums={"values": (1.7e308, 1.7e308, 1.7e308)}),
    "thousands of classes": changed(counts={"class": {f"made up {i}": 1 for i in range(5_000)}}),
    "a name of no length twice": changed(counts={"class": {"": 1}, "shape": {FORM: 20, "[]": 1}}),
}


def test_honest_devices_are_as_if_pooled() -> None:
    facts, out = agreed(TEN, make)
    assert out == {}
    assert facts == of()


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("place", [0, 4, 9])
def test_one_of_ten_decides_nothing(lie: str, place: int) -> None:
    others = [one for i, one in enumerate(TEN) if i != 4]
    facts, out = agreed([*others[:place], LIES[lie], *others[place:]], make)
    assert list(out) == [place]
    assert facts == of(leave_out=4)


def rows(
    *, count: int = 1000, missing: int = 0, mean: float = 50.0, deviation: float = 9.0, wards: Mapping[str, int]
) -> Summary:
    """What a device says of a table of ages, wards and classes."""
    known = count - missing
    ages = (float(count), float(missing), known * mean, known * (mean**2 + deviation**2))
    return Summary(
        counts={"target": {"y": 1}, "class": {"ill": count // 2, "well": count - count // 2}, "text of ward": wards},
        sums={"rows": (float(count),), "column age": ages, "column ward": (float(count), 0.0, 0.0, 0.0)},
    )


WARDS = {"day": 600, "night": 400}
TABLE_LIES = {
    "values of 1e30": rows(mean=1e30, wards=WARDS),
    "values of 1e30 and a category of its own": rows(mean=1e30, wards={"day": 999, "made up": 1}),
    "all are missing, often": rows(count=2**50, missing=2**50 - 1000, wards={"day": 2**50}),
    "more are missing than there are": rows(missing=10**9, wards=WARDS),
}


def of_table(summary: Summary) -> InputFacts:
    return facts_from(DataSettings(dataset="csv:t.csv", partition="own"), summary)


@pytest.mark.parametrize("lie", TABLE_LIES)
@pytest.mark.parametrize("place", [0, 5])
@pytest.mark.parametrize("missing", [0, 1])
def test_one_table_of_six_decides_nothing(lie: str, place: int, missing: int) -> None:
    others = [rows(missing=missing * (node % 2), wards=WARDS) for node in range(5)]
    facts, out = agreed([*others[:place], TABLE_LIES[lie], *others[place:]], of_table)
    assert list(out) == [place]
    assert facts == of_table(sum(others, start=Summary()))


@pytest.mark.parametrize(
    "third",
    [
        rows(missing=1000, wards=WARDS),
        rows(wards={"day": 1, "night": 1, "rare": 998}),
        rows(missing=999, wards={"rare": 1000}),
    ],
    ids=["never records a column", "has a category that is rare elsewhere", "both"],
)
def test_unlike_tables_all_count(third: Summary) -> None:
    honest = [rows(missing=1, wards={"day": 600, "night": 399, "rare": 1})] * 2
    facts, out = agreed([*honest, third], of_table)
    assert out == {}
    assert facts == of_table(sum([*honest, third], start=Summary()))


def test_three_of_ten_that_say_different_things_decide_nothing() -> None:
    odd = [LIES[name] for name in ("pictures of another shape", "values of 1e30", "thousands of classes")]
    facts, out = agreed([*odd, *TEN[3:]], make)
    assert sorted(out) == [0, 1, 2]
    assert facts == make(sum(TEN[3:], start=Summary()))


@pytest.mark.parametrize(
    "honest",
    [
        [said(0), said(1, scale=0.2), said(2)],  # dark pictures
        [said(0, classes={"cat": 20}), said(1, classes={"cat": 20}), said(2, classes={"dog": 20})],
        [said(0, classes={f"class {i}": 1 for i in range(500)}), said(1), said(2)],
    ],
    ids=["dark", "the only one of its class", "many classes"],
)
def test_unlike_devices_all_count(honest: Sequence[Summary]) -> None:
    facts, out = agreed(honest, make)
    assert out == {}
    assert facts == make(sum(honest, start=Summary()))


def test_where_nobody_can_say_who_is_odd_there_is_an_error() -> None:
    other = LIES["pictures of another shape"]
    for odd in ([TEN[0], other], [*TEN[:2], other, other]):
        with pytest.raises(ValueError, match="inputs of one shape"):
            agreed(odd, make)


def test_whatever_an_error_is_it_is_one_of_no_task() -> None:
    def failing(summary: Summary) -> InputFacts:
        raise KeyError(summary)

    with pytest.raises(ValueError, match="KeyError"):
        agreed(TEN, partial(failing))
