"""What a run folder says, as its page needs it, whatever state the folder is in."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server_app.folder.run_folder import CONFIG, HOLDINGS, SUMMARY, read_metrics
from server_app.folder.summary import Row, summary_of
from server_app.report.drawing import finite

Series = Sequence[tuple[int, float]]  # (round, value); a value may be NaN, which leaves a gap


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a run folder says.

    Attributes:
        folder: where it is.
        config: its settings.
        surroundings: what else `config.json` has.
        rows: of its metrics.
        summary: as `summary.json` has it; of the rows while there is none.
        tiers: their names, those of the settings first.
        holdings: as `server_app.opening` writes it; {} where there is none.
    """

    folder: Path
    config: Mapping[str, Any]
    surroundings: Mapping[str, Any]
    rows: Sequence[Row]
    summary: Mapping[str, Any]
    tiers: Sequence[str]
    holdings: Mapping[str, Any]

    @property
    def last(self) -> Mapping[str, Any]:
        """The last evaluated round; {} without one."""
        return self.summary.get("last") or {}

    @property
    def best(self) -> Mapping[str, Any]:
        """The best round of the global network; {} without one."""
        return self.summary.get("best") or {}

    @property
    def share(self) -> bool:
        """Whether its score is a share, shown in per cent."""
        return bool((self.summary.get("metric") or {}).get("share", True))

    @property
    def score(self) -> str:
        """Key of the score in a row."""
        return "score" if self.summary.get("metric") else "accuracy"

    def shown(self, value: object, digits: int = 2) -> str:
        """A score as text."""
        number = finite(value)
        if number is None:
            return "–"
        return f"{100 * number:.{digits}f} %" if self.share else f"{number:.4g}"


def told(folder: Path) -> Told:
    """Read a run folder.

    Raises:
        OSError: it cannot be read.
    """
    config, rows = _read(folder / CONFIG), read_metrics(folder)
    summary = _read(folder / SUMMARY) or summary_of(rows, {})  # there is none while the run runs
    ended = (summary.get("last") or {}).get("tiers") or {}
    tiers = dict.fromkeys([*ended, *(name for row in rows for name in row.get("tiers") or {})])
    return Told(
        folder=folder,
        config=config.get("config") or {},
        surroundings={key: value for key, value in config.items() if key != "config"},
        rows=rows,
        summary=summary,
        tiers=list(tiers),
        holdings=_read(folder / HOLDINGS),
    )


def series(rows: Iterable[Row], *path: str) -> list[tuple[int, float]]:
    """(round, number at this path) of the rounds that have the path; null and what is no number become NaN."""
    points = []
    for row in rows:
        value: Any = row
        for key in path:
            value = value.get(key, series) if isinstance(value, Mapping) else series
        if value is not series:  # a mark for "absent", which None (a NaN in the run) is not
            number = finite(value)
            points.append((row["round"], math.nan if number is None else number))
    return points


def _read(file: Path) -> dict[str, Any]:
    """Read a JSON file of the folder; a run that was killed early lacks it, and a report is wanted all the same."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
