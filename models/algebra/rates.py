"""Rates: which share of its units a width keeps, one for all axes or one for every group of them.

A network says which group its axes are in, such as `stream`, `heads` or `mlp`. Most parts keep one share of every axis,
which is a plain fraction; `Rates` are shares that differ. They are never made where all agree, so equal parts have
equal rates.

Rates have a partial order: a ≤ b says that a keeps at most what b keeps of every axis, so that its part lies inside
the other. Of "mlp=1/4" and "heads=1/4" neither does: both a ≤ b and b ≤ a are false, and sorting needs `ascending`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from numbers import Real
from typing import TypeVar

FULL = Fraction(1)
MOST_GROUPS = 16
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_LONGEST = 80  # characters of a share
_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True)
class Rates:
    """Shares that differ by group, as `rates_of` makes them.

    Attributes:
        rest: of the axes of all other groups, in (0, 1].
        groups: (group, share) ascending by name, each another share than the rest's.

    Raises:
        ValueError: it is not as this says, or more than `MOST_GROUPS`.
    """

    rest: Fraction
    groups: tuple[tuple[str, Fraction], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.groups]
        if not 0 < len(names) <= MOST_GROUPS or names != sorted(set(names)) or not all(map(_NAME.fullmatch, names)):
            raise ValueError(f"groups {', '.join(names[:3])!r}: allowed is 1 to {MOST_GROUPS}, each once and by name")
        for share in (self.rest, *dict(self.groups).values()):
            if not 0 < share <= 1:
                raise ValueError(f"share {share}: allowed is more than 0 and at most 1")
        if self.rest in dict(self.groups).values():
            raise ValueError(f"share {self.rest} of a group: it is that of the rest")

    def __str__(self) -> str:
        groups = [f"{name}={share}" for name, share in self.groups]
        return " ".join(groups if self.rest == FULL else [str(self.rest), *groups])

    def __le__(self, other: Rate | int) -> bool:
        return all(own <= others for own, others in _pairs(self, other))

    def __ge__(self, other: Rate | int) -> bool:
        return all(own >= others for own, others in _pairs(self, other))

    def __lt__(self, other: Rate | int) -> bool:
        return self <= other and self != other

    def __gt__(self, other: Rate | int) -> bool:
        return self >= other and self != other


Rate = Fraction | Rates


def rates_of(rest: Fraction, groups: Mapping[str, Fraction]) -> Rate:
    """A share for every group, and one for the rest: a plain fraction where they agree.

    Raises:
        ValueError: as `Rates`.
    """
    differ = tuple((name, share) for name, share in sorted(groups.items()) if share != rest)
    return Rates(rest, differ) if differ else rest


def rate_of(rate: Rate, group: str) -> Fraction:
    """The share that a rate keeps of the axes of a group."""
    return rate if isinstance(rate, Fraction) else dict(rate.groups).get(group, rate.rest)


def groups_in(rate: Rate) -> frozenset[str]:
    """The groups that a rate names."""
    return frozenset() if isinstance(rate, Fraction) else frozenset(dict(rate.groups))


def read_rate(text: str) -> Rate:
    """Read "1/2", "mlp=1/4 heads=1/2" (the rest is 1) or "1/2 mlp=1/4"; commas will do for spaces.

    Raises:
        ValueError: unreadable, or as `Rates`.
    """
    rest, groups = FULL, dict[str, Fraction]()
    for place, item in enumerate(re.split(r"[\s,]+", re.sub(r"\s*=\s*", "=", text.strip()))):
        name, named, share = item.rpartition("=")
        if name in groups or (place and not named):
            raise ValueError(f"rate {text[:_LONGEST]!r}: allowed is such as '1/2 mlp=1/4', every group once")
        if named:
            groups[name] = read_share(share)
        else:
            rest = read_share(share)
    return rates_of(rest, groups)


def exact_rate(name: str, given: object) -> Rate:
    """A rate as somebody writes it in Python: itself, a number such as 0.5, or a text as `read_rate` reads it.

    Args:
        name: of what it is a value of, for the error.
        given: the value.

    Raises:
        ValueError: anything else.
    """
    return given if isinstance(given, Rates) else _exact(name, given, read_rate)


def exact_share(name: str, given: object) -> Fraction:
    """Likewise one share."""
    return _exact(name, given, read_share)


def _exact(name: str, given: object, read: Callable[[str], _Read]) -> Fraction | _Read:
    if type(given) is Fraction:
        return given
    try:
        if isinstance(given, str):
            return read(given)
        if isinstance(given, Real) and not isinstance(given, bool):
            return Fraction(str(given))  # as it is written: 0.1 is a tenth, which it is not in floating point
    except ValueError:
        pass
    raise ValueError(f"{name} = {given!r}: allowed is a share such as Fraction(1, 2), 0.5 or '1/2'")


def without_group(rate: Rate, group: str) -> Rate:
    """The same rate, of a network that has no such group."""
    return rate if isinstance(rate, Fraction) else rates_of(rate.rest, {n: s for n, s in rate.groups if n != group})


def with_group(rate: Rate, group: str, share: Fraction) -> Rate:
    """The same rate with another share of one group."""
    rest, groups = (rate, {}) if isinstance(rate, Fraction) else (rate.rest, dict(rate.groups))
    return rates_of(rest, groups | {group: share})


def ascending(rates: Iterable[Rate]) -> list[Rate]:
    """Different rates in an order in which none stands before one that it is at least as large as."""
    different = set(rates)
    names = list(_names(different))
    # The sum of shares rises wherever all do; equal sums are ordered by what they say, so that everybody agrees.
    return sorted(different, key=lambda rate: (sum(rate_of(rate, name) for name in names), str(rate)))


def joined(rates: Iterable[Rate]) -> Rate:
    """The least rate that is at least as large as each of these."""
    return _combined(tuple(rates), max)


def met(rates: Iterable[Rate]) -> Rate:
    """The largest rate that every one of these is at least as large as: what all who hold them hold."""
    return _combined(tuple(rates), min)


def single(rate: Rate) -> Fraction:
    """The share of every axis.

    Raises:
        ValueError: they differ.
    """
    if not isinstance(rate, Fraction):
        raise ValueError(f"rate {rate}: allowed is one for all axes")
    return rate


def _combined(rates: tuple[Rate, ...], choose: Callable[[Iterable[Fraction]], Fraction]) -> Rate:
    shares = {name: choose([rate_of(rate, name) for rate in rates]) for name in _names(rates)}
    return rates_of(shares.pop(""), shares)


def _pairs(one: Rates, other: Rate | int) -> Iterator[tuple[Fraction, Fraction]]:
    """What both keep of every group and of the rest."""
    other = Fraction(other) if isinstance(other, int) else other
    return ((rate_of(one, name), rate_of(other, name)) for name in _names((one, other)))


def _names(rates: Iterable[Rate]) -> Iterator[str]:
    """The groups that any of these names, and "" for the rest."""
    yield ""
    yield from sorted(frozenset().union(*map(groups_in, rates)))


def share_of(share: float, count: int) -> int:
    """A share of a whole number, rounded up; 0.07 of 100 is 7, which it is not in floating point."""
    return ceil(Fraction(str(share)) * count)


def read_share(text: str) -> Fraction:
    """Read one share, such as "1/2" or "0.5".

    Raises:
        ValueError: unreadable, or with an exponent, which would make a few characters a number without end.
    """
    if len(text) > _LONGEST or not text or "e" in text.lower():
        raise ValueError(f"share {text[:_LONGEST]!r}: allowed is a fraction such as 1/2")
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"share {text!r}: allowed is a fraction such as 1/2") from None
