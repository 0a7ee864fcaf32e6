"""Processes that never outlive their run.

A run's processes are started in sessions of their own, and a session is what they can't lose: Ray's are re-parented
when their parent ends, and their titles overwrite the environment they were started with. What begins a session of
its own in turn is found by the run's mark in its environment.

A guard process holds the other end of a pipe. When flotilla ends without a word, by SIGKILL or a crash, the pipe
closes and the guard does the sweeping.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil


def in_sessions(sessions: Iterable[int]) -> set[psutil.Process]:
    """Collect the processes of some sessions, without this one."""
    wanted = set(sessions)
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            zombie = process.status() == psutil.STATUS_ZOMBIE
            if process.pid != os.getpid() and os.getsid(process.pid) in wanted and not zombie:
                found.add(process)
    return found


def marked(variable: str, value: str) -> set[psutil.Process]:
    """Collect every other process that was started with this value in its environment."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # gone, a zombie, or someone else's
            if process.pid != os.getpid() and process.environ().get(variable) == value:
                found.add(process)
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
        alive = _alive_after(found, patience)
        _signal(alive, kill=True)
        _alive_after(alive, 5.0)
    return len(seen)


def _alive_after(processes: Iterable[psutil.Process], seconds: float) -> set[psutil.Process]:
    """Those that are alive after this time, or none as soon as none is.

    A zombie is dead: orphans are collected by process 1, which in a container may take its time or never do it.
    """
    deadline = time.monotonic() + seconds
    alive = set(processes)
    while (alive := {one for one in alive if _lives(one)}) and time.monotonic() < deadline:
        time.sleep(0.01)
    return alive


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _signal(processes: Iterable[psutil.Process], *, kill: bool) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if kill:
                process.kill()
            else:
                process.terminate()


class Guard:
    """Ends a run's processes and removes its folder, also if this process can't.

    Args:
        home: the run's temporary folder; processes that have FLWR_HOME below it are the run's.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._sessions: list[int] = []
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def watch(self, session: int) -> None:
        """Add a session, named by its leader's process id."""
        self._sessions.append(session)
        self._say(str(session))

    def close(self) -> None:
        """Sweep here and now, then let the guard go."""
        end_run(self._home, self._sessions)
        self._say("done")
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # someone has killed the guard: then it can't help, and needn't
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()


def end_run(home: Path, sessions: Iterable[int]) -> None:
    """End what belongs to a run and remove its folder."""
    flwr_home = str(home / "flwr")
    sweep(lambda: in_sessions(sessions) | marked("FLWR_HOME", flwr_home))
    shutil.rmtree(home, ignore_errors=True)


def _guard(home: Path) -> None:
    lines = [line.strip() for line in sys.stdin]  # until flotilla closes the pipe, or is gone
    if "done" not in lines:
        end_run(home, [int(line) for line in lines])


if __name__ == "__main__":
    _guard(Path(sys.argv[1]))
