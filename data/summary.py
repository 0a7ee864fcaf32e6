"""What a device says of its data so that the facts of a run can be decided without them: sums and counts.

Summaries add: the sum of two is the summary of both devices' examples together. No example can be read off the sums of
many; of a device that has one example they are that example, so a run with differential privacy asks for none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

MOST_GROUPS = 2**12
MOST_NAMES = 2**18
MOST_CHARACTERS = 200
_MOST = 2**53


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Sums over some examples.

    Attributes:
        counts: what → name → how often, such as "class" → names of classes → examples.
        sums: what → numbers that add, such as "values" → (values per channel, sum by channel, squares by channel).
        least, greatest: what → the smallest and the largest of it, such as "values".

    Raises:
        ValueError: too many names, a count that is none, or a number that is not finite; one line.
    """

    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    sums: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    least: Mapping[str, float] = field(default_factory=dict)
    greatest: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """A summary comes from a peer: bounded in every direction."""
        groups = [*self.counts, *self.sums, *self.least, *self.greatest]
        names = [name for group in self.counts.values() for name in group]
        if len(groups) > MOST_GROUPS or len(names) > MOST_NAMES or sum(map(len, self.sums.values())) > MOST_NAMES:
            raise ValueError(f"allowed are {MOST_GROUPS} groups and {MOST_NAMES} names and numbers")
        if any(len(name) > MOST_CHARACTERS for name in (*groups, *names)):
            raise ValueError(f"a name of more than {MOST_CHARACTERS} characters")
        counts = [count for group in self.counts.values() for count in group.values()]
        if any(type(count) is not int or not 0 <= count < _MOST for count in counts):
            raise ValueError("counts: allowed are whole numbers of at least 0")
        numbers = [*self.least.values(), *self.greatest.values(), *(one for part in self.sums.values() for one in part)]
        if not all(type(number) is float and isfinite(number) for number in numbers):
            raise ValueError("sums: allowed are finite numbers")

    def __add__(self, other: Summary) -> Summary:
        """Of both together.

        Raises:
            ValueError: sums of different length under one name.
        """
        counts = {
            what: _added(self.counts.get(what, {}), other.counts.get(what, {}))
            for what in dict.fromkeys((*self.counts, *other.counts))
        }
        sums = dict(self.sums)
        for what, numbers in other.sums.items():
            before = sums.get(what, (0.0,) * len(numbers))
            if len(before) != len(numbers):
                raise ValueError(f"sums: {what!r} has {len(numbers)} numbers, and {len(before)} elsewhere")
            sums[what] = tuple(a + b for a, b in zip(before, numbers, strict=True))
        least = {**other.least, **{what: min(one, other.least.get(what, one)) for what, one in self.least.items()}}
        greatest = {
            **other.greatest,
            **{what: max(one, other.greatest.get(what, one)) for what, one in self.greatest.items()},
        }
        return Summary(counts=counts, sums=sums, least=least, greatest=greatest)

    def count(self, what: str) -> int:
        """How many there are of all names together."""
        return sum(self.counts.get(what, {}).values())

    def to_json(self) -> str:
        """Serialise; floats come back as the same bits."""
        return json.dumps(
            {
                "counts": {what: dict(group) for what, group in self.counts.items()},
                "sums": {what: list(numbers) for what, numbers in self.sums.items()},
                "least": dict(self.least),
                "greatest": dict(self.greatest),
            },
            ensure_ascii=False,
        )

    @staticmethod
    def from_json(text: str) -> Summary:
        """Read what `to_json` wrote.

        Raises:
            ValueError: something else.
        """
        try:
            told = json.loads(text)
            return Summary(
                counts={str(what): dict(group) for what, group in told["counts"].items()},
                sums={str(what): tuple(map(float, numbers)) for what, numbers in told["sums"].items()},
                least={str(what): float(one) for what, one in told["least"].items()},
                greatest={str(what): float(one) for what, one in told["greatest"].items()},
            )
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"no summary of data ({type(error).__name__})") from None


def _added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in dict.fromkeys((*one, *other))}
