"""Processes that never outlive their run.

Three nets, from the gentle to the certain: a child dies when flotilla dies (Linux's parent-death signal, which also
covers SIGKILL); the tree below our children is collected while it can still be seen; and whatever carries the run's
mark in its environment is found wherever it was re-parented to (Ray's raylet and workers are).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterable

import psutil

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> Callable[[], None] | None:
    """Make a hook for a child to run before exec, so that it gets SIGTERM when this process ends, however it ends.

    The kernel ties it to the *thread* that starts the child: call Popen in the main thread.
    """
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def before_exec() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it was already too late
            os._exit(1)

    return before_exec


def family(pids: Iterable[int]) -> set[psutil.Process]:
    """Collect the given processes and everything below them."""
    found: set[psutil.Process] = set()
    for pid in pids:
        try:
            process = psutil.Process(pid)
            found |= {process, *process.children(recursive=True)}
        except psutil.NoSuchProcess:
            continue
    return found


def marked(variable: str, value: str) -> set[psutil.Process]:
    """Collect every other process that was started with this value in its environment."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(variable) == value:
                found.add(process)
        except psutil.Error:  # gone, a zombie, or someone else's
            continue
    return found


def sweep(find: Callable[[], set[psutil.Process]], patience: float = 0.3) -> int:
    """End everything `find` finds: ask, wait, kill, and look again, since a dying parent may leave new orphans.

    Returns:
        How many processes there were.
    """
    seen: set[psutil.Process] = set()
    for _ in range(5):
        found = find()
        if not found:
            break
        seen |= found
        _signal(found, kill=False)
        _, alive = psutil.wait_procs(found, timeout=patience)
        _signal(alive, kill=True)
        psutil.wait_procs(alive, timeout=5.0)
    return len(seen)


def _signal(processes: Iterable[psutil.Process], *, kill: bool) -> None:
    for process in processes:
        try:
            if kill:
                process.kill()
            else:
                process.terminate()
        except psutil.Error:
            continue
