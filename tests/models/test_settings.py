"""Sections: typed reading, ranges, and one line that names key, value and what is allowed."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import SettingError
from models.settings import (
    Names,
    Range,
    Setting,
    Text,
    at_least,
    between,
    check,
    declared,
    more_than,
    read,
    read_options,
    setting,
)

LATER: list[str] = ["one"]


@dataclass(frozen=True, kw_only=True)
class Base:
    share: float = setting(0.5, "a share", between(0, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Section(Base):
    count: int = setting(3, "a count", at_least(1))
    word: str = setting("one", "a word", Names(lambda: LATER))
    switch: bool = setting(False, "a switch")
    strength: str = setting("auto", "a number or auto", Text('"auto" or a number'), key="other-name", advanced=True)
    note: str = "no setting"

    def __post_init__(self) -> None:
        check(self)


def test_a_section_lists_its_own_settings_before_those_that_it_extends() -> None:
    placed = declared(Section)
    assert [one.key for one in placed] == ["count", "word", "switch", "other-name", "share"]
    assert [one.in_python for one in placed][3] == "Section(strength=…)"
    assert [one.setting.advanced for one in placed] == [False, False, False, True, False]


def test_reading_takes_what_is_there_and_nothing_else() -> None:
    assert read(Section, {}) == Section()
    found = read(Section, {"count": 7, "share": 1, "other-name": 0.25, "stranger": 9, "note": "x"})
    assert found == Section(count=7, share=1.0, strength="0.25")
    assert type(found.share) is float
    assert read(Section, {}, note="x").note == "x"


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("count", 1.0, "a whole number of at least 1"),
        ("count", True, "a whole number of at least 1"),
        ("count", "3", "a whole number of at least 1"),
        ("count", 0, "a whole number of at least 1"),
        ("count", 2**63, f"a whole number of at least 1, in 64 bits ({-(2**63)} to {2**63 - 1})"),
        ("other-name", 10**30, f'"auto" or a number, in 64 bits ({-(2**63)} to {2**63 - 1})'),
        ("share", 10**400, f"0 to 1, in 64 bits ({-(2**63)} to {2**63 - 1})"),
        ("share", True, "a number, 0 to 1"),
        ("share", "half", "a number, 0 to 1"),
        ("share", nan, "a finite number, 0 to 1"),
        ("share", inf, "a finite number, 0 to 1"),
        ("share", 1.5, "0 to 1"),
        ("switch", 1, "true or false"),
        ("switch", "true", "true or false"),
        ("word", 1, "text, one of one"),
        ("word", "two", "one of one"),
        ("other-name", True, 'text, "auto" or a number'),
    ],
)
def test_a_value_that_is_not_allowed(key: str, value: Any, allowed: str) -> None:
    with pytest.raises(SettingError) as caught:
        read(Section, {key: value})
    assert (caught.value.key, caught.value.allowed) == (key, allowed)
    assert "\n" not in str(caught.value)


def test_a_closed_set_may_be_filled_later() -> None:
    LATER.append("two")
    try:
        assert read(Section, {"word": "two"}).word == "two"
    finally:
        LATER.remove("two")


def test_sections_that_are_made_in_python_are_checked_too() -> None:
    with pytest.raises(SettingError, match=r"^share = 2: allowed is 0 to 1$"):
        Section(share=2)
    with pytest.raises(SettingError, match=r"^share = nan"):
        Section(share=nan)


ENDS = st.integers(-5, 5)


@given(ENDS, ENDS, st.booleans(), st.booleans(), st.one_of(ENDS, st.floats(-6, 6)))
def test_a_range_holds_what_its_words_say(least: int, most: int, above: bool, below: bool, value: float) -> None:
    low = value > least if above else value >= least
    high = value < most if below else value <= most
    assert Range(least, most, above=above, below=below).holds(value) == (low and high)


@pytest.mark.parametrize(
    ("range_", "words"),
    [
        (at_least(0), "at least 0"),
        (more_than(0), "more than 0"),
        (more_than(0, 1), "more than 0 and at most 1"),
        (between(1, 65536), "1 to 65536"),
        (Range(0, 1, below=True), "0 to below 1"),
        (Range(0, 1, above=True, below=True), "between 0 and 1"),
        (Range(0, inf, above=True, below=True), "more than 0"),
    ],
)
def test_a_range_in_words(range_: Range, words: str) -> None:
    assert str(range_) == words


def test_options_of_a_method() -> None:
    options = {"step": Setting(-1, "units a round"), "rate": Setting(0.5, "a rate", more_than(0, 1))}
    assert read_options(options, {}) == {"step": -1, "rate": 0.5}
    assert read_options(options, {"rate": 1}) == {"step": -1, "rate": 1.0}
    with pytest.raises(SettingError, match=r"rate = 0.0: allowed is more than 0 and at most 1"):
        read_options(options, {"rate": 0})
    with pytest.raises(KeyError):
        read_options(options, {"stride": 1})
