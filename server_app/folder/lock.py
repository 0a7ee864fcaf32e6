"""Who writes to a run folder: one live process at a time."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from models.errors import SettingError

LOCK = "lock"


class RunLock:
    """The lock file of a folder; safe against a process that died or whose pid was given to another."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self._locked_by = 0

    def take(self, key: str) -> None:
        """Take the folder, or say who has it. The lock of a dead process, or of a recycled pid, is taken over."""
        file = self.path / LOCK
        host = socket.gethostname()
        me = {"pid": os.getpid(), "host": host, "started": _started(os.getpid())}
        with _alone(self.path):
            for _ in range(2):
                try:
                    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
                    break
                except FileExistsError:
                    if owner := _live_owner(file, host):
                        free = f"a folder that no run uses: {owner}"
                        raise SettingError(key, str(self.path), free) from None
                    file.unlink(missing_ok=True)
            else:
                raise SettingError(key, str(self.path), "a folder that no run uses: another just took it")
            os.write(fd, json.dumps(me).encode())
            os.close(fd)
        self._locked_by = os.getpid()
        atexit.register(self.release)

    def other_owner(self) -> str | None:
        """Another live process that has the folder, in words; None if there is none."""
        if self._locked_by == os.getpid():
            return None
        return _live_owner(self.path / LOCK, socket.gethostname())

    def release(self) -> None:
        """Give the folder up. Safe to call twice; done at exit as well."""
        atexit.unregister(self.release)
        if self._locked_by == os.getpid():  # a forked child must not release its parent's folder
            self._locked_by = 0
            (self.path / LOCK).unlink(missing_ok=True)


def _started(pid: int) -> float:
    """Seconds from boot to the start of a process: unlike the date it does not move when the clock is set."""
    return float(round(psutil.Process(pid).create_time() - psutil.boot_time(), 2))


def _live_owner(file: Path, host: str) -> str | None:
    """Who holds the lock, in words, or None if its process is gone."""
    for _ in range(20):
        try:
            owner = json.loads(file.read_text(encoding="utf-8"))
            pid, where, started = int(owner["pid"]), str(owner["host"]), float(owner["started"])
            break
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError):
            time.sleep(0.05)  # its owner may be between creating and writing it
    else:
        return None
    if where != host:
        return f"pid {pid} on host {where} does, or did: if it is gone, delete {file}"
    try:
        alive = abs(_started(pid) - started) < 0.5 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        alive = False
    return f"pid {pid} on this host does" if alive else None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time: of two that find the same stale lock, the second must see the first one's new lock."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems lock no folders; O_EXCL still holds there
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
