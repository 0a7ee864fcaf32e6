"""What a library's rounds took, and the tables of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from benchmarks.document import table
from benchmarks.peers.contender import Contender, Turn
from benchmarks.peers.job import JOBS, Job

HEADS = [
    "library",
    "processes",
    "round",
    "rounds a minute",
    "CPU time a round",
    "time / ours",
    "CPU time / ours",
    "memory",
    "arrays sent a round",
    "accuracy",
]
_TICK = 0.01  # seconds, in which CPU time is counted
_LITTLE = 0.02  # CPU seconds a second that nobody minds


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A line of a table.

    Attributes:
        job: name of the job.
        name: of the library.
        processes: in how many it trained.
        seconds, cpu_seconds: medians over the turns.
        ratio, cpu_ratio: medians over the turns of what it took / what ours took in the same turn; 0.0: not compared.
        beside: which of ours that was.
        memory: bytes, at most, of all its processes.
        down, up: bytes of arrays that clients got and returned in a round; 0 where nothing is sent.
        accuracy: of the last model on test examples; None where it is not known.
        versions: of packages.
        notes: what a reader has to know.
        turns: how many.
        reason: why there is nothing of all this; "" where there is.
    """

    job: str
    name: str
    processes: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    ratio: float = 0.0
    cpu_ratio: float = 0.0
    beside: str = ""
    memory: int = 0
    down: int = 0
    up: int = 0
    accuracy: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    turns: int = 0
    reason: str = ""

    def cells(self) -> list[str]:
        """Write it as text."""
        moved = f"{self.down / 1e6:.1f} + {self.up / 1e6:.1f} MB" if self.down + self.up else "in process"
        return [
            self.name,
            str(self.processes),
            f"{self.seconds:.2f} s",
            f"{60 / self.seconds:.1f}",
            f"{self.cpu_seconds:.2f} s",
            f"{self.ratio:.2f}" if self.ratio else "-",
            f"{self.cpu_ratio:.2f}" if self.cpu_ratio else "-",
            f"{self.memory / 1e6:,.0f} MB",
            moved,
            "-" if self.accuracy is None else f"{100 * self.accuracy:.1f} %",
        ]

    def line(self) -> str:
        """What stands below the table: versions and notes, or why it is not in it."""
        if self.reason:
            return f"{self.name}: not measured: {self.reason}"
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        compared = [f"compared with {self.beside}"] if self.ratio else []
        return f"{self.name}, {self.processes}: {'; '.join([versions, *self.notes, *compared])}"

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def result_of(measured: Contender, ours: Contender | None, accuracy: float | None) -> Result:
    """The line of a library, beside the turns of ours if there are any."""

    def middle(name: str) -> float:
        return float(median(getattr(turn, name) for turn in measured.turns))

    def ratio(name: str) -> float:
        if ours is None or not ours.turns:
            return 0.0
        return median(_ratios(measured.turns, ours.turns, name))

    idle = median(measured.idle) if measured.idle else 0.0
    notes = [measured.facts["note"]] if measured.facts["note"] else []
    notes += [f"used {100 * idle:.0f} % of a core while others had their turn"] if idle > _LITTLE else []
    return Result(
        job=measured.job.name,
        name=measured.peer.name,
        processes=measured.processes,
        seconds=middle("seconds"),
        cpu_seconds=middle("cpu_seconds"),
        ratio=ratio("seconds"),
        cpu_ratio=ratio("cpu_seconds"),
        beside="" if ours is None else f"{ours.peer.name}, {ours.processes}",
        memory=measured.peak.bytes,
        down=measured.turns[-1].down,
        up=measured.turns[-1].up,
        accuracy=accuracy,
        versions=measured.facts["versions"],
        notes=notes,
        turns=len(measured.turns),
    )


def _ratios(theirs: Sequence[Turn], ours: Sequence[Turn], name: str) -> list[float]:
    pairs = zip(theirs, ours, strict=False)
    return [getattr(one, name) / max(getattr(other, name), _TICK) for one, other in pairs]


def text_of(results: Sequence[Result], *, markdown: bool = False) -> str:
    """A table for each job, with what has to be said below it."""
    parts = []
    for name in dict.fromkeys(result.job for result in results):
        own = [result for result in results if result.job == name]
        done = [result for result in own if not result.reason]
        turns = max((result.turns for result in done), default=0)
        parts.append(f"{'**' if markdown else ''}{name}{'**' if markdown else ''}: {about(JOBS[name])}; {turns} turns.")
        parts.append(table(HEADS, [result.cells() for result in done], markdown=markdown))
        parts.append("\n".join(f"- {result.line()}." for result in own))
    return "\n\n".join(parts)


def about(job: Job) -> str:
    """A job in words."""
    momentum = f", momentum {job.momentum:g}, weight decay {job.weight_decay:g}, clipping {job.clip_norm:g}"
    return (
        f"{job.about}: {job.per_round} of {job.clients} clients a round, {job.examples} pictures of "
        f"{'x'.join(map(str, job.input_shape))} each, {job.epochs} epoch{'s' * (job.epochs > 1)} in batches of "
        f"{job.batch_size} ({job.steps} optimiser steps a round), {job.parameters:,} parameters, SGD"
        f"{momentum if job.momentum else ''}"
    )
