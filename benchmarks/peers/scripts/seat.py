"""How a script takes its turns: it says what it has, does a round whenever it is told to, and says how it ended.

The runner's socket, the job, its data, the number of rounds and the folder for counts come in environment variables, so
that whatever processes a library starts have them as well. Lines of JSON go both ways.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import struct
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.peers.job import Job

if TYPE_CHECKING:  # the runner reads counts and has no need of PyTorch
    from torch.optim import Optimizer

SOCKET, JOB, DATA, ROUNDS, COUNTS, PROCESSES = (
    f"FLOTILLA_PEERS_{name}" for name in ("SOCKET", "JOB", "DATA", "ROUNDS", "COUNTS", "PROCESSES")
)
COUNTED = ("steps", "down", "up")  # what a process counts, in the order of its file
_FORMAT = f"{len(COUNTED)}q"


def job() -> Job:
    """The job of this process."""
    return Job.from_json(os.environ[JOB])


def data_folder() -> Path:
    """Where the job's pictures lie."""
    return Path(os.environ[DATA])


def rounds() -> int:
    """How many rounds there are, those to warm up among them."""
    return int(os.environ[ROUNDS])


def processes() -> int:
    """How many processes are to train."""
    return int(os.environ[PROCESSES])


class Seat:
    """The runner's end of the wire."""

    def __init__(self) -> None:
        wire = socket.socket(socket.AF_UNIX)
        wire.connect(os.environ[SOCKET])
        self._lines = wire.makefile("rw", encoding="utf-8")
        self._left = rounds()

    def ready(self, parameters: int, *packages: str, note: str = "") -> None:
        """Say what will be trained, by which versions; returns when the first round is to begin."""
        versions = {name: version(name) for name in packages}
        self._say(ready=True, parameters=parameters, versions=versions, note=note)
        self._wait()

    def ended(self) -> None:
        """Say that a round has ended; returns when the next one is to begin, and at once after the last."""
        self._left -= 1
        self._say(ended=True)
        if self._left:
            self._wait()

    @property
    def left(self) -> int:
        """Rounds that are still to be done."""
        return self._left

    def done(self, accuracy: float | None) -> None:
        """Say which share of the test examples the last model names right; None where that is not known."""
        self._say(done=True, accuracy=accuracy)

    def _say(self, **values: Any) -> None:
        self._lines.write(json.dumps(values) + "\n")
        self._lines.flush()

    def _wait(self) -> None:
        if not self._lines.readline():
            raise SystemExit("the benchmark has ended")


class Counter:
    """What this process counts, in a file of its own that the runner reads between rounds."""

    def __init__(self) -> None:
        file = Path(os.environ[COUNTS]) / f"{os.getpid()}"
        file.touch()
        with file.open("r+b") as opened:
            opened.truncate(struct.calcsize(_FORMAT))
            self._map = mmap.mmap(opened.fileno(), struct.calcsize(_FORMAT))
        self._values = dict.fromkeys(COUNTED, 0)

    def add(self, **more: int) -> None:
        """Count more of something."""
        for name, number in more.items():
            self._values[name] += number
        struct.pack_into(_FORMAT, self._map, 0, *self._values.values())


_counters: dict[int, Counter] = {}
_servers: Optimizer | None = None


def counter() -> Counter:
    """The counter of this process."""
    if (own := os.getpid()) not in _counters:
        _counters[own] = Counter()
    return _counters[own]


def one_thread() -> None:
    """Let this process compute with one thread, as everybody does, and count its optimiser steps."""
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    torch.set_num_threads(1)
    if os.getpid() in _counters:
        return
    found = counter()

    def count(optimiser: Optimizer, *_: Any) -> None:
        if optimiser is not _servers:
            found.add(steps=1)

    register_optimizer_step_post_hook(count)


def uncounted(optimiser: Optimizer) -> Optimizer:
    """An optimiser of the server, whose steps are nobody's training."""
    global _servers
    _servers = optimiser
    return optimiser


def counts(folder: Path) -> dict[str, int]:
    """Sums over all processes that have counted in the folder."""
    sums = [0] * len(COUNTED)
    for file in folder.iterdir():
        if len(content := file.read_bytes()) == struct.calcsize(_FORMAT):  # else it has just been made
            sums = [one + more for one, more in zip(sums, struct.unpack(_FORMAT, content), strict=True)]
    return dict(zip(COUNTED, sums, strict=True))
