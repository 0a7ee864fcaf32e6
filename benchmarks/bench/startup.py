"""Startup: the default job, from the command to the prompt, within a minute."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.bench.rows import Row
from benchmarks.document import Say
from benchmarks.job import flotilla_run

NAME = "startup"
LIMIT = 60.0  # seconds
# A phase ends with the first line that starts like this.
_PHASES = (
    ("Flower and Ray start", "run folder:"),
    ("first round", "round  1/"),
    ("the other rounds", "finished after"),
)


def startup(say: Say = print, run_config: str = "") -> list[Row]:
    """Time the default job.

    Args:
        say: takes progress.
        run_config: other settings, for a quick look.
    """
    say("startup: the default job")
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        ran = flotilla_run(Path(folder) / "run", run_config)
    return [
        Row(
            benchmark=NAME,
            what="default job, command to prompt / 60 s",
            measured=ran.seconds,
            reference=LIMIT,
            unit="s",
            ratio=ran.seconds / LIMIT,
            limit=1.0,
            note=_phases(ran.lines, ran.seconds),
        )
    ]


def _phases(lines: list[tuple[float, str]], took: float) -> str:
    parts, last = [], 0.0
    for name, start in _PHASES:
        at = next((at for at, line in lines if line.strip().startswith(start)), last)
        parts.append(f"{name} {at - last:.1f} s")
        last = at
    return ", ".join([*parts, f"report and shutdown {took - last:.1f} s"])
