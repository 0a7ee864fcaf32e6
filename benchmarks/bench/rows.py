"""A result: what was measured, what it is compared with, and the limit it has to keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        benchmark: name of the benchmark, as on the command line.
        what: what is measured / what it is compared with.
        measured, reference: medians over the turns, in `unit`.
        unit: of both.
        ratio: median over the turns of measured / reference (or of reference / measured, where more is better).
        limit: what the ratio has to keep; None where it is only reported.
        at_least: whether the limit is a lower one.
        turns: number of turns.
        note: what a reader has to know to believe it.
    """

    benchmark: str
    what: str
    measured: float
    reference: float
    unit: str
    ratio: float
    limit: float | None = None
    at_least: bool = False
    turns: int = 1
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the limit is kept; True where there is none."""
        if self.limit is None:
            return True
        return self.ratio >= self.limit if self.at_least else self.ratio <= self.limit

    @property
    def verdict(self) -> str:
        """One word."""
        return "-" if self.limit is None else "pass" if self.passed else "FAIL"

    def cells(self) -> list[str]:
        """Write the row as text."""
        bound = "-" if self.limit is None else f"{'≥' if self.at_least else '≤'} {self.limit:g}"
        numbers = [f"{number:.4g} {self.unit}" for number in (self.measured, self.reference)]
        return [self.benchmark, self.what, *numbers, f"{self.ratio:.3g}", bound, self.verdict, str(self.turns)]

    def to_json(self) -> dict[str, Any]:
        """As JSON values, with the verdict."""
        return {**asdict(self), "passed": self.passed}

    @staticmethod
    def from_json(values: dict[str, Any]) -> Row:
        """Read what `to_json` wrote."""
        return Row(**{key: value for key, value in values.items() if key != "passed"})


HEADS = ["benchmark", "measured / compared with", "measured", "compared with", "ratio", "limit", "", "n"]


def row_of_turns(
    benchmark: str,
    what: str,
    turns: Sequence[tuple[float, float]],
    *,
    unit: str,
    scale: float = 1.0,
    limit: float | None = None,
    at_least: bool = False,
    note: str = "",
) -> Row:
    """Make a row from turns of (measured, reference): the median of the ratios, not the ratio of the medians.

    With `at_least` the ratio is reference / measured: how many times faster.
    """
    ratios = [reference / measured if at_least else measured / reference for measured, reference in turns]
    measured, reference = (scale * median(side) for side in zip(*turns, strict=True))
    return Row(
        benchmark=benchmark,
        what=what,
        measured=measured,
        reference=reference,
        unit=unit,
        ratio=median(ratios),
        limit=limit,
        at_least=at_least,
        turns=len(turns),
        note=note,
    )
