"""What the processes of a run through Ray use of the cores, by what they are."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from statistics import median

import psutil

# What a process's title or command line has in it, by kind; the first that fits.
_KINDS = {
    "ray::": "workers",
    "app_process.py": "the server's process",
    "raylet/raylet": "raylet",
    "/ray/": "Ray's others",
}


class RayShares:
    """CPU seconds by kind of process, of stretches of time; of every run through Ray on this machine.

    Attributes:
        stretches: what each of them took, by kind.
    """

    def __init__(self) -> None:
        self._began: dict[int, float] = {}
        self.stretches: list[Mapping[str, float]] = []

    def begin(self) -> None:
        """A stretch begins."""
        self._began = {pid: used for pid, (_, used) in _processes().items()}

    def end(self) -> None:
        """It ends, if one had begun; what a process that is new has used is not known to be of it."""
        if not self._began:
            return
        took = dict.fromkeys(_KINDS.values(), 0.0)
        for pid, (kind, used) in _processes().items():
            if pid in self._began:
                took[kind] += used - self._began[pid]
        self.stretches.append(took)

    def __str__(self) -> str:
        found = {kind: median([took[kind] for took in self.stretches] or [0.0]) for kind in _KINDS.values()}
        return "CPU seconds a round, medians: " + ", ".join(f"{kind} {used:.2f}" for kind, used in found.items())


def _processes() -> dict[int, tuple[str, float]]:
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            title = " ".join([process.name(), *process.cmdline()])
            kind = next((kind for mark, kind in _KINDS.items() if mark in title), None)
            if kind is not None:
                times = process.cpu_times()
                found[process.pid] = kind, times.user + times.system
    return found
