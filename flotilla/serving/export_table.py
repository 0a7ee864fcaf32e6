"""What was exported, as a table: sizes, latency of one example in one thread, accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

FLOAT = "float32"
MOST_LOST = 0.01  # of the accuracy, for a file that is smaller and faster


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One file.

    Attributes:
        tier: whose network it holds.
        numbers: what it computes with: "float32" or "int8".
        file: where it is; None where it was not kept.
        parameters: of the network.
        bytes: of the file.
        eager_seconds: of one example in PyTorch, one thread, the median.
        seconds: of one example by the file's own runtime, likewise; None where PyTorch runs it.
        accuracy: on the test data, of what was read back from the file; None if it was not checked.
        difference: the largest between logits of both, on the test data; None if it was not checked.
        reason: why another file was kept instead; "" where it was kept.
    """

    tier: str
    numbers: str = FLOAT
    file: Path | None
    parameters: int
    bytes: int
    eager_seconds: float
    seconds: float | None = None
    accuracy: float | None
    difference: float | None
    reason: str = ""


def why_not(one: Exported, other: Exported) -> str:
    """Why the other file of the same tier is better, "" where it is not."""
    reasons = []
    if one.bytes >= other.bytes:
        reasons.append(f"{one.bytes / other.bytes:.2f}x the bytes")
    if one.seconds is not None and other.seconds is not None and one.seconds > other.seconds:
        reasons.append(f"{one.seconds / other.seconds:.2f}x the time")
    if one.accuracy is not None and other.accuracy is not None and other.accuracy - one.accuracy > MOST_LOST:
        reasons.append(f"{100 * (other.accuracy - one.accuracy):.2f} points less")
    return ", ".join(reasons)


def latencies(calls: Sequence[Callable[[], object]], repeats: int = 200) -> list[float]:
    """Median seconds of each call; they take turns, so whatever else the machine does meets all of them."""
    taken: list[list[float]] = [[] for _ in calls]
    warm = repeats // 10
    for _ in range(warm + repeats):
        for call, times in zip(calls, taken, strict=True):
            began = perf_counter()
            call()
            times.append(perf_counter() - began)
    return [median(times[warm:]) for times in taken]


HEADS = ("tier", "parameters", "bytes", "PyTorch µs", "file µs", "faster", "accuracy", "difference", "file")
_NUMBERS = 1  # where the column of numbers stands, if there are several


def table(rows: Iterable[Exported]) -> str:
    """The rows as text."""
    rows = list(rows)
    lines: list[tuple[str, ...]] = [HEADS, *map(cells, rows)]
    if len({row.numbers for row in rows}) > 1:
        several = ("numbers", *(row.numbers for row in rows))
        lines = [(*line[:_NUMBERS], numbers, *line[_NUMBERS:]) for line, numbers in zip(lines, several, strict=True)]
    return aligned(lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Cells in columns: the first and the last to the left, the others to the right."""
    columns = len(lines[0])
    widths = [max(len(line[n]) for line in lines) for n in range(columns)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(line[n].rjust(widths[n]) for n in range(1, columns - 1)), line[-1]])
        for line in lines
    )


def cells(row: Exported) -> tuple[str, ...]:
    """One row under `HEADS`."""
    own = ("–", "–") if row.seconds is None else (_us(row.seconds), f"{row.eager_seconds / row.seconds:.1f}x")
    unknown = "not checked" if row.difference is None else "–"
    accuracy = unknown if row.accuracy is None else f"{100 * row.accuracy:.2f} %"
    difference = "–" if row.difference is None else f"{row.difference:.0e}"
    counts = (f"{row.parameters:,}", f"{row.bytes:,}")
    file = str(row.file) if row.file else f"not kept, float is better: {row.reason}"
    return row.tier, *counts, _us(row.eager_seconds), *own, accuracy, difference, file


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:,.0f}"
