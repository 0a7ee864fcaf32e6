"""Memory of processes together, where what they share counts once: proportional set sizes, by the kernel (Linux)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_EVERY = 0.25  # seconds


class Peak:
    """The largest sum that was seen, in bytes."""

    def __init__(self, processes: Callable[[], Collection[int]]) -> None:
        self._processes = processes
        self.bytes = 0

    def look(self) -> None:
        """Take note of what the processes hold now."""
        self.bytes = max(self.bytes, sum(map(proportional, self._processes())))


@contextmanager
def looking(peak: Peak) -> Iterator[None]:
    """Look four times a second, and at the end."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_EVERY):
            peak.look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        peak.look()


def proportional(pid: int) -> int:
    """Bytes of a process, of shared pages its part; 0 if it is gone or another user's."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return 0
