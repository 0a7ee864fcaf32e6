"""A library's process from start to end: it takes its turns, and what they cost is measured from outside."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, TextIO

from benchmarks.cpu_time import CpuTime, watched
from benchmarks.document import ROOT
from benchmarks.peers.job import Job
from benchmarks.peers.memory import EVERY, Peak
from benchmarks.peers.peer import Peer
from benchmarks.peers.scripts import seat

_PATIENCE = 300.0  # seconds to wait for a word: that it is ready, that a round or everything is over
_SAID = 600  # characters of what a script printed last


class Failed(RuntimeError):
    """A library did not do its work; says how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What a round took.

    Attributes:
        seconds: on the wall.
        cpu_seconds: of all processes.
        steps: optimiser steps.
        down, up: bytes of arrays that clients got and returned; 0 where nothing is sent.
    """

    seconds: float
    cpu_seconds: float
    steps: int
    down: int
    up: int


@dataclass(slots=True, kw_only=True, eq=False)
class Contender:
    """A started library; use `contender`.

    Attributes:
        peer, processes, job: what runs.
        started: the process.
        wire: where it is told to go on.
        said: its lines of JSON.
        counted: its CPU seconds.
        counts: folder in which its processes count.
        peak: its memory, looked at where nothing is timed.
        facts: what it said of itself: parameters, versions, a note.
        turns: rounds that count.
        idle: CPU seconds a second while others had their turn.
    """

    peer: Peer
    processes: int
    job: Job
    started: subprocess.Popen[bytes]
    wire: socket.socket
    said: TextIO
    counted: CpuTime
    counts: Path
    peak: Peak
    log: Path
    facts: dict[str, Any] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)
    _rests: tuple[float, float] = (0.0, 0.0)

    def warm_up(self) -> None:
        """Do a round that does not count, and look at memory in it."""
        with watched(self.peak, EVERY):
            self._round()
        self.peak.look()

    def turn(self) -> Turn:
        """Do a round that counts."""
        self.turns.append(self._round())
        self.peak.look()
        return self.turns[-1]

    def finish(self) -> float | None:
        """The share of test examples that its last model names right, if it says."""
        accuracy: float | None = self._heard("done")["accuracy"]
        return accuracy

    def heard_ready(self) -> None:
        """Wait until it is ready.

        Raises:
            Failed: it ended, or trains another network.
        """
        self.facts = self._heard("ready")
        if self.facts["parameters"] != self.job.parameters:
            raise Failed(f"its network has {self.facts['parameters']:,} parameters, not {self.job.parameters:,}")

    def _round(self) -> Turn:
        before = seat.counts(self.counts)
        with watched(self.counted):
            used, began = self.counted.seconds, perf_counter()
            self._note_idle(used, began)
            self._tell()
            self._heard("ended")
            seconds = perf_counter() - began
        self.counted.look()
        self._rests = self.counted.seconds, perf_counter()
        now = seat.counts(self.counts)
        steps, down, up = (now[name] - before[name] for name in seat.COUNTED)
        if steps != self.job.steps:
            raise Failed(f"a round had {steps} optimiser steps, not {self.job.steps}")
        return Turn(seconds=seconds, cpu_seconds=self.counted.seconds - used, steps=steps, down=down, up=up)

    def _note_idle(self, used: float, now: float) -> None:
        """Take note of what it has used while others had their turn."""
        before, since = self._rests
        if since and now - since > 1.0:
            self.idle.append((used - before) / (now - since))

    def _tell(self) -> None:
        try:
            self.wire.sendall(b"go\n")
        except OSError:
            raise Failed(f"it ended between two rounds; it printed: {self.printed()}") from None

    def _heard(self, word: str) -> dict[str, Any]:
        try:
            line = self.said.readline()
        except TimeoutError:
            raise Failed(f"nothing heard in {_PATIENCE:.0f} s; it printed: {self.printed()}") from None
        except OSError:
            line = ""
        if not line:
            raise Failed(f"it ended; it printed: {self.printed()}")
        said: dict[str, Any] = json.loads(line)
        if word not in said:
            raise Failed(f"it said {line.strip()} instead of {word}")
        return said

    def printed(self) -> str:
        """The end of what it printed."""
        return printed(self.log)


@contextmanager
def contender(peer: Peer, processes: int, job: Job, *, python: str, data: Path, rounds: int) -> Iterator[Contender]:
    """Start a library's script and end everything that it started.

    Args:
        peer, processes: what runs.
        job: what it does.
        python: of its environment.
        data: folder of the job's pictures.
        rounds: how many, with those to warm up.

    Raises:
        Failed: it did not come so far as to be ready.
    """
    with (
        tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as place,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        folder = Path(place)
        counts, log = folder / "counts", folder / "log"
        counts.mkdir()
        listener.bind(str(folder / "socket"))
        listener.listen(1)
        listener.settimeout(1.0)
        environment = {
            **os.environ,
            seat.SOCKET: str(folder / "socket"),
            seat.JOB: job.to_json(),
            seat.DATA: str(data),
            seat.ROUNDS: str(rounds),
            seat.COUNTS: str(counts),
            seat.PROCESSES: str(processes),
            "PYTHONPATH": str(ROOT),
            "HOME": place,
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }
        with log.open("wb") as output:
            started = subprocess.Popen(
                command(peer, processes, python),
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        counted = CpuTime(started.pid)
        try:
            with watched(counted):  # so that nobody is missed whose parent soon ends
                wire = _accepted(listener, started, log)
            with wire, wire.makefile("r", encoding="utf-8") as lines:
                wire.settimeout(_PATIENCE)
                made = Contender(
                    peer=peer,
                    processes=processes,
                    job=job,
                    started=started,
                    wire=wire,
                    said=lines,
                    counted=counted,
                    counts=counts,
                    peak=Peak(lambda: counted.processes),
                    log=log,
                )
                with watched(counted):
                    made.heard_ready()
                yield made
        finally:
            _end(started, counted)


def command(peer: Peer, processes: int, python: str) -> list[str]:
    """What starts a script."""
    launcher = [part.format(processes=processes) for part in peer.launcher] if processes > 1 else []
    module = f"benchmarks.peers.scripts.{peer.script}"
    return [python, "-m", *launcher, module]


def printed(log: Path) -> str:
    """The end of a file, in one line."""
    return " / ".join(log.read_text(encoding="utf-8", errors="replace")[-_SAID:].split("\n")[-6:]).strip(" /")


def _accepted(listener: socket.socket, started: subprocess.Popen[bytes], log: Path) -> socket.socket:
    began = perf_counter()
    while perf_counter() - began < _PATIENCE:
        with suppress(TimeoutError):
            return listener.accept()[0]
        if started.poll() is not None:
            raise Failed(f"it ended with {started.returncode}; it printed: {printed(log)}")
    raise Failed(f"not ready after {_PATIENCE:.0f} s; it printed: {printed(log)}")


def _end(started: subprocess.Popen[bytes], counted: CpuTime) -> None:
    """Let it end by itself, then end it and what is left of its processes."""
    with suppress(subprocess.TimeoutExpired):
        started.wait(20)
    for how in (signal.SIGTERM, signal.SIGKILL):
        started.poll()
        counted.look()
        for pid in counted.processes:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, how)
        if not counted.processes:
            break
        sleep(1.0)
    started.wait()
