"""CPU seconds of a command and of everything that it starts; what can be compared where others use the machine.

Sums that the system keeps for parents miss children that nobody waits for, of which Ray has many; so processes are
looked at in /proc ten times a second. What ends between two looks is counted up to the last one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Protocol

_EVERY = 0.1  # seconds
_PROC = Path("/proc")


class _Process(NamedTuple):
    parent: int
    session: int
    start: int  # in the kernel's ticks since it runs
    used: float  # CPU seconds


class CpuTime:
    """The CPU seconds of a process and its descendants, counted from a thread of its own.

    Args:
        pid: the process. Its descendants are found by their parents, or by the session that one of them leads, because
            processes are handed on when their parent ends.
    """

    def __init__(self, pid: int) -> None:
        self._known = {pid}
        self._began: dict[int, int] = {}
        self._alive: frozenset[int] = frozenset()
        self._used: dict[tuple[int, int], float] = {}

    @property
    def seconds(self) -> float:
        """User and system time so far."""
        return sum(self._used.values())

    @property
    def processes(self) -> frozenset[int]:
        """Those that were there at the last look; none that has only the number of one that ended."""
        return self._alive

    def look(self) -> None:
        """Take note of what every process has used until now."""
        seen = {pid: process for pid in _pids() if (process := _process(pid))}
        while new := [pid for pid in seen.keys() - self._known if self._known & {seen[pid].parent, seen[pid].session}]:
            self._known.update(new)
        here = self._known & seen.keys()
        self._alive = frozenset(pid for pid in here if self._began.setdefault(pid, seen[pid].start) == seen[pid].start)
        for pid in here:
            self._used[pid, seen[pid].start] = seen[pid].used


@contextmanager
def cpu_time(pid: int) -> Iterator[CpuTime]:
    """Count while the context lasts."""
    counted = CpuTime(pid)
    with watched(counted):
        yield counted


class Looking(Protocol):
    """What takes note of something as it is now."""

    def look(self) -> None:
        """Do so."""


@contextmanager
def watched(counted: Looking, every: float = _EVERY) -> Iterator[None]:
    """Look at the processes while the context lasts, so many seconds apart, from a thread of its own."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(every):
            counted.look()

    counted.look()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _pids() -> list[int]:
    return [int(name) for name in os.listdir(_PROC) if name.isdigit()]


def _process(pid: int) -> _Process | None:
    with suppress(OSError):
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        return _Process(int(fields[1]), int(fields[3]), int(fields[19]), ticks / os.sysconf("SC_CLK_TCK"))
    return None
