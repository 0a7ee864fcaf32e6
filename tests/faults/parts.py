"""The processes of a `flotilla federation`, found without looking at those of the whole machine again and again."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

_NAMES = {
    "superlink.py": "SuperLink",
    "supernode.py": "SuperNode",
    "app_process.py": "ServerApp",
    "executor.py": "executor",
}
_PATIENCE = 60.0  # seconds to wait for something to kill
_lives = [0.0]  # seconds that the ClientApps lived which were watched to their end


@dataclass(frozen=True)
class Killed:
    """What was killed.

    Attributes:
        node: whose it was.
        moment: when in its life, in words.
    """

    node: int | None
    moment: str


class Federation:
    """A running federation.

    Args:
        pid: of `flotilla federation`.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def kill(self, part: str, draws: np.random.Generator) -> Killed | None:
        """Kill one process of a part, waiting for one to appear; None if the federation has ended meanwhile."""
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until and psutil.pid_exists(self._pid):
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                found = self._client(draws) if part == "ClientApp" else self._long_lived(part, draws)
                if found is not None:
                    return found
            time.sleep(0.1)
        return None

    def _named(self, part: str) -> list[tuple[int, str]]:
        """Process ids and command lines of a part, among the federation's own children."""
        found = []
        for pid in children(self._pid):
            line = " ".join(psutil.Process(pid).cmdline())
            if next((name for key, name in _NAMES.items() if key in line), "") == part:
                found.append((pid, line))
        return found

    def _long_lived(self, part: str, draws: np.random.Generator) -> Killed | None:
        found = self._named(part)
        if not found:
            return None
        pid, line = found[int(draws.integers(len(found)))]
        os.kill(pid, signal.SIGKILL)
        node = re.search(r"partition-id=(\d+)", line)
        age = time.time() - _began(pid)
        return Killed(int(node[1]) if node else None, f"{age:.0f} s old")

    def _client(self, draws: np.random.Generator) -> Killed | None:
        """Wait for the next ClientApp of a random node and kill it somewhere in its life.

        The executor forks a process for each node, in their order.
        """
        executors = [pid for pid, _ in self._named("executor")]
        nodes = sorted(children(executors[0]), key=lambda pid: (_began(pid), pid)) if executors else []
        if not nodes:
            return None
        node, until = int(draws.integers(len(nodes))), time.monotonic() + 10.0
        before = set(clients(nodes[node]))
        while time.monotonic() < until:
            fresh = set(clients(nodes[node])) - before
            if fresh:
                pid, seen = fresh.pop(), time.monotonic()
                # The first one is watched to its end: how long they live is not known yet.
                delay = float(draws.uniform(0, _lives[-1])) if _lives[-1] else 30.0
                while _state(pid) not in ("", "Z") and time.monotonic() < seen + delay:
                    time.sleep(0.01)
                if _state(pid) in ("", "Z"):
                    _lives.append(time.monotonic() - seen)
                    return None
                os.kill(pid, signal.SIGKILL)
                return Killed(node, f"{1000 * (time.monotonic() - seen):.0f} ms after its start")
            time.sleep(0.01)
        return None


def children(pid: int) -> list[int]:
    """Process ids of the children of all threads of a process; [] if it is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (thread / "children").read_text().split()]
    return found


def clients(executor: int) -> list[int]:
    """Process ids of the ClientApps at work for a node's executor: forked from its app's process."""
    return [client for app in children(executor) for client in children(app)]


def _state(pid: int) -> str:
    """As `ps` has it, "Z" for one that has ended; "" for one that is gone."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def _began(pid: int) -> float:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:  # it is gone already
        return time.time()
