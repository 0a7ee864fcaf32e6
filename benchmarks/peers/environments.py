"""An environment for each library, made once and kept: a venv with our version of PyTorch and the library."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks.document import ROOT, Say
from benchmarks.peers.peer import Peer

FOLDER = "FLOTILLA_PEERS"  # environment variable: where environments are, if not in the checkout
_STAMP = "installed.txt"  # what was asked for
_LIMIT = 900.0  # seconds for an installation


class NotInstalled(RuntimeError):
    """A library could not be installed; says why."""


def environments() -> Path:
    """The folder of all environments."""
    return Path(os.environ.get(FOLDER) or ROOT / ".venv-peers")


class Installed:
    """The environments of a run. What could not be installed is not tried again in it.

    Args:
        say: takes progress.
    """

    def __init__(self, say: Say) -> None:
        self._say = say
        self._failed: dict[str, NotInstalled] = {}

    def python_of(self, peer: Peer) -> str:
        """The Python of a library's environment, which is made if it is not there as asked for.

        Raises:
            NotInstalled: pip failed, now or before.
        """
        if not peer.packages:
            return sys.executable
        if before := self._failed.get(peer.name):
            raise before
        try:
            return _installed(peer, self._say)
        except NotInstalled as error:
            self._failed[peer.name] = error
            raise


def _installed(peer: Peer, say: Say) -> str:
    folder = environments() / peer.environment
    asked = "\n".join(wanted(peer)) + "\n"
    stamp, python = folder / _STAMP, folder / "bin" / "python"
    if not (stamp.is_file() and stamp.read_text(encoding="utf-8") == asked):
        say(f"peers: installing {peer.name} into {folder} (minutes, once)")
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)], peer)
        _run([str(python), "-m", "pip", "install", "--quiet", *wanted(peer)], peer)
        stamp.write_text(asked, encoding="utf-8")
    return str(python)


def wanted(peer: Peer) -> tuple[str, ...]:
    """What pip is asked for: PyTorch in the version that we have, so that all compute with the same kernels."""
    return f"torch=={version('torch').partition('+')[0]}", *peer.packages


def _run(command: list[str], peer: Peer) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LIMIT)
    except subprocess.TimeoutExpired as error:
        raise NotInstalled(f"{peer.name}: not installed after {_LIMIT:.0f} s") from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error")] or lines
        raise NotInstalled(f"pip: {errors[-1] if errors else 'failed without a word'}")
