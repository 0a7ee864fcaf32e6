"""What a person sees while a run runs: a line a round, and a table at the end.

ASCII and no cursor tricks, because Flower carries it through log streams.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from rich.box import Box
from rich.console import Console
from rich.table import Table

from server_app.folder.summary import ACCURACY
from server_app.metrics import Headline, value_of

_WIDTH = 100  # characters
_MEMORY = 10  # rounds that the estimate looks back on
# Two spaces between columns and a rule under the head.
_PLAIN = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


class Progress:
    """Prints a line for every round.

    Args:
        rounds: the number of the last round.
        write: takes each line, without its end; prints at once unless given.
        clock: seconds, monotonic.
        headline: the number that is shown of every network.
    """

    def __init__(
        self,
        rounds: int,
        write: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        headline: Headline = ACCURACY,
    ) -> None:
        self._headline = headline
        self.rounds = rounds
        self._write, self._clock = write or print_line, clock
        self._end = clock()
        self._took: deque[float] = deque(maxlen=_MEMORY)

    def round(self, row: Mapping[str, Any]) -> None:
        """Print the line of a round that has just ended, from its metrics row."""
        before, self._end = self._end, self._clock()
        number, took = int(row["round"]), self._end - before
        self._took.append(took if self._took else _first_pace(row, took))
        width = len(str(self.rounds))
        parts = [f"round {number:>{width}}/{self.rounds}"]
        if "accuracy" in row:
            parts.append(f"{self._named(row)}  loss {_number(row.get('loss'))}")
            if "robust" in row:
                parts.append(f"attacked {_percent(row['robust'])}%")
            if tiers := row.get("tiers"):
                parts.append(" ".join(f"{name} {self._shown(tier)}" for name, tier in tiers.items()))
        if row.get("abandoned"):
            parts.append("ABANDONED")
        rejected = len(row.get("rejected") or ())
        parts.append(
            f"{row.get('accepted', 0)}/{len(row.get('selected') or ())} clients"
            + (f", {rejected} rejected" if rejected else "")
        )
        parts.append(f"{_mb(row.get('bytes_down'))}/{_mb(row.get('bytes_up'))} MB down/up")
        parts.append(f"{took:.1f} s")
        if left := max(self.rounds - number, 0):
            parts.append(f"{_clock_face(left * sum(self._took) / len(self._took))} left")
        self._write(" | ".join(parts))

    def _named(self, row: Mapping[str, Any]) -> str:
        name = "acc" if self._headline.name == "accuracy" else self._headline.name
        return f"{name} {self._shown(row)}" + ("%" if self._headline.share else "")

    def _shown(self, scores: Mapping[str, Any]) -> str:
        value = value_of(scores)
        return _percent(value) if self._headline.share else _number(value)


def _first_pace(row: Mapping[str, Any], took: float) -> float:
    """Seconds that another round may take: without the wait for nodes and their hello, which come once."""
    phases = {phase: seconds for phase, seconds in (row.get("seconds") or {}).items() if phase != "hello"}
    return min(took, sum(phases.values())) if phases else took


def final_table(
    summary: Mapping[str, Any], folder: Path, rates: Mapping[str, object] | None = None, width: int = _WIDTH
) -> str:
    """Lay out the table a run ends with, and where its folder is, as plain text.

    Args:
        summary: what ``RunFolder.write_summary`` returned.
        folder: the run folder.
        rates: by tier name, the width it holds; the column is left out without it.
        width: characters a line.
    """
    last, best = summary.get("last") or {}, summary.get("best") or {}
    table = Table(box=_PLAIN, pad_edge=False, show_edge=False)
    table.add_column("tier")
    heads = ["parameters", "MACs", "MB down", "MB up", f"last, r{last.get('round', '-')}"]
    for head in (["rate"] if rates else []) + [*heads, "own best", "in"]:
        table.add_column(head, justify="right")
    shown = shown_as(summary)
    ends, peaks = last.get("tiers") or {}, summary.get("best_of_tier") or {}
    for name, cost in ends.items():
        costs = [_exact(cost.get("parameters")), count(cost.get("macs"))]
        costs += [_mb(cost.get("bytes_down")), _mb(cost.get("bytes_up"))]
        results = [shown(value_of(cost)), *_peak(peaks.get(name) or {}, shown)]
        table.add_row(name, *([str(rates.get(name, "-"))] if rates else []), *costs, *results)
    gap = [""] * (len(heads) - (0 if rates else 1))
    table.add_row("global", *gap, shown(value_of(last)), *_peak(best, shown))
    stream = StringIO()
    Console(file=stream, width=width, color_system=None, force_terminal=False, markup=False, emoji=False).print(table)
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    state = f"{summary.get('status', 'stopped')} after {summary.get('rounds', 0)} rounds"
    state += f": {summary['ended']}" if summary.get("ended") else ""
    units = f"MB: one device, one round. {name_of(summary)}: whole test set, last round and each line's own best one."
    return "\n".join([state, "", *lines, "", units, f"run folder: {folder}"])


def print_line(text: str) -> None:
    """Print and flush; a stream that cannot encode a tier's name gets "?" for it rather than end the run."""
    try:
        print(text, flush=True)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding or "ascii"
        print(text.encode(encoding, "replace").decode(encoding), flush=True)


def count(number: float | None) -> str:
    """Write a count in three or more digits and k, M or G (powers of 1,000): 38350 is "38.4 k"."""
    if number is None:
        return "-"
    for scale, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= scale:
            return f"{number / scale:.{max(0, 3 - len(str(int(number / scale))))}f}{letter}"
    return f"{number:.0f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


def name_of(summary: Mapping[str, Any]) -> str:
    """What the values in a table are."""
    told = str((summary.get("metric") or {}).get("name", "accuracy"))
    return told[0].upper() + told[1:]


def shown_as(summary: Mapping[str, Any]) -> Callable[[float | None], str]:
    """How the values of a run's headline are written."""
    return _share if (summary.get("metric") or {}).get("share", True) else _number


def _peak(best: Mapping[str, Any], shown: Callable[[float | None], str]) -> list[str]:
    """The best value of a line, and the round that it is of."""
    return [shown(value_of(best)), f"r{best['round']}" if best else "-"]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _mb(size: float | None) -> str:
    """Bytes as MB (10^6), with digits enough to tell small ones from nothing."""
    if size is None:
        return "-"
    return f"{size / 1e6:.1f}" if size >= 1e7 or size == 0 else f"{size / 1e6:#.3g}"


def _clock_face(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _exact(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"
