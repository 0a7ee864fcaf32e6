"""Startup: the default job, and one round in process, from command to prompt; in turns with another checkout.

CPU seconds stand beside those on the wall, which say little where others use the machine.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench.rows import Row, row_of_turns
from benchmarks.document import ROOT, Say
from benchmarks.job import Ran, flotilla_run

NAME = "startup"
TURNS = 9
# A phase ends with the first line that starts like this.
_PHASES = (
    ("start", "run folder:"),
    ("first round", "round  1/"),
    ("the other rounds", "finished after"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """A command.

    Attributes:
        name: what it is.
        config, options: as `flotilla_run` takes them.
        limit: seconds that it may take.
        share: of the other checkout's time that it may take.
    """

    name: str
    config: str = ""
    options: tuple[str, ...] = ()
    limit: float
    share: float


_JOBS = (
    _Job(name="default job", limit=60.0, share=0.5),
    _Job(
        name="one round, --engine local",
        config="num-server-rounds=1",
        options=("--engine", "local"),
        limit=20.0,
        share=0.35,
    ),
)


def startup(say: Say = print, run_config: str = "", *, against: Path | None = None, turns: int = TURNS) -> list[Row]:
    """Time both commands.

    Args:
        say: takes progress.
        run_config: other settings, for a quick look.
        against: another checkout, which runs the same in turns with this one.
        turns: how many of them.
    """
    return [row for job in _JOBS for row in _rows(job, say, run_config, against, turns)]


def _rows(job: _Job, say: Say, run_config: str, against: Path | None, turns: int) -> list[Row]:
    what = f"{job.name}, command to prompt"
    if against is None:
        say(f"startup: {job.name}")
        ran = _ran(job, run_config, ROOT)
        row = Row(
            benchmark=NAME,
            what=f"{what} / {job.limit:g} s",
            measured=ran.seconds,
            reference=job.limit,
            unit="s",
            ratio=ran.seconds / job.limit,
            limit=1.0,
            note=f"{_phases(ran)}; {ran.cpu_seconds:.1f} CPU s",
        )
        return [row]
    pairs = []
    for turn in range(1, turns + 1):
        pairs.append((_ran(job, run_config, ROOT), _ran(job, run_config, against.resolve())))
        took = " against ".join(f"{ran.seconds:.1f} s, {ran.cpu_seconds:.1f} CPU s" for ran in pairs[-1])
        say(f"startup: {job.name}, turn {turn} of {turns}: {took}")
    ours, theirs = (min(side, key=lambda ran: ran.seconds) for side in zip(*pairs, strict=True))
    wall = row_of_turns(
        NAME,
        f"{what} / of {against.name}",
        [(one.seconds, other.seconds) for one, other in pairs],
        unit="s",
        limit=job.share,
        note=f"the shortest: {_phases(ours)}; of {against.name}: {_phases(theirs)}",
    )
    cpu = row_of_turns(
        NAME,
        f"{job.name}, of all processes / of {against.name}",
        [(one.cpu_seconds, other.cpu_seconds) for one, other in pairs],
        unit="CPU s",
    )
    return [wall, cpu]


def _ran(job: _Job, run_config: str, root: Path) -> Ran:
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        return flotilla_run(
            Path(folder) / "run", f"{job.config} {run_config}".strip(), *job.options, root=root, count=True
        )


def _phases(ran: Ran) -> str:
    parts, last = [], 0.0
    for name, start in _PHASES:
        at = next((at for at, line in ran.lines if line.strip().startswith(start)), last)
        parts.append(f"{name} {at - last:.1f} s")
        last = at
    return ", ".join([*parts, f"report and shutdown {ran.seconds - last:.1f} s"])
