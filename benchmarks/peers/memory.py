"""Memory of processes together, where what they share counts once: proportional set sizes, by the kernel (Linux)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

EVERY = 0.25  # seconds between two looks, of which each reads a file of every process


class Peak:
    """The largest sum that was seen, in bytes."""

    def __init__(self, processes: Callable[[], Collection[int]]) -> None:
        self._processes = processes
        self.bytes = 0

    def look(self) -> None:
        """Take note of what the processes hold now."""
        self.bytes = max(self.bytes, sum(map(proportional, self._processes())))


def proportional(pid: int) -> int:
    """Bytes of a process, of shared pages its part; 0 if it is gone or another user's."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return 0
