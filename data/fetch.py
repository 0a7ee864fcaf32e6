"""Files that must be there, and downloading them without ever hanging a run.

Ask first, briefly, then fetch beside and move into place.
"""

from __future__ import annotations

import hashlib
import os
import socket
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.request import Request, urlopen

from models.errors import SettingError

# Given a folder as text, puts files into a folder under it; raises when it cannot.
Download = Callable[[str], object]

# Seconds to find out whether the server answers at all, and seconds of silence that end a download.
_ASK, _SILENCE = 3.0, 30.0


def ensure(root: Path, folder: str, files: Sequence[str], address: str, download: Download | None = None) -> None:
    """See that the files of `root/folder` are there, or bring them from the network.

    Args:
        root: the data root.
        folder: where the files belong, relative to `root`.
        files: their names.
        address: where they come from.
        download: as `fetch` has it; None where they have to be brought by hand.

    Raises:
        SettingError: (key data-root) says which files belong where, where they come from and why they were not fetched.
    """
    missing = [f"{folder}/{name}" for name in files if not (root / folder / name).is_file()]
    if not missing:
        return
    reason = "" if download is None else fetch(download, address, folder, root)
    if reason or download is None:
        why = f"; {reason}" if reason else ""
        allowed = f"a folder with {', '.join(missing)} (unpacked, from {address}{why})"
        raise SettingError("data-root", str(root), allowed)


def download_files(folder: str, address: str, checksums: Mapping[str, str]) -> Download:
    """Return a download of plain files.

    Args:
        folder: where they go.
        address: the URL that their names follow.
        checksums: name → SHA-256 in hexadecimal.
    """

    def download(beside: str) -> None:
        (Path(beside) / folder).mkdir()
        for name, checksum in checksums.items():
            with urlopen(address + name, timeout=_SILENCE) as answer:
                content = answer.read()
            if hashlib.sha256(content).hexdigest() != checksum:
                raise RuntimeError(f"{address}{name} is not the published file")
            (Path(beside) / folder / name).write_bytes(content)

    return download


def fetch(download: Download, address: str, folder: str, root: Path) -> str:
    """Try to bring the files of `root/folder` from the network.

    Args:
        download: puts the files into `folder` under the folder that it is given.
        address: a URL on the server that the files come from, asked before anything is downloaded.
        folder: where the files belong, relative to `root`.
        root: the data root; created where missing.

    Returns:
        Why it failed, in a few words; "" when the files are in place. A machine without network answers within about
        three seconds. Files appear whole or not at all, so two processes may fetch at the same time.
    """
    reason = _unreachable(address)
    if reason:
        return reason
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as beside, _silence_ends():
            download(beside)
            target = root / folder
            target.mkdir(parents=True, exist_ok=True)
            for file in (Path(beside) / folder).iterdir():
                os.replace(file, target / file.name)
    except (RuntimeError, OSError, HTTPException, EOFError, tarfile.TarError) as error:
        return f"download failed: {' '.join(str(error).split()) or type(error).__name__}"
    return ""


def _unreachable(address: str) -> str:
    """Say why `address` does not answer; "" when it does.

    In a thread because looking up a name cannot be given a time limit; one that is stuck is left behind.
    """
    answer = ["no answer from the network"]

    def ask() -> None:
        try:
            with urlopen(Request(address, method="HEAD"), timeout=_ASK):
                answer[0] = ""
        except (OSError, HTTPException, ValueError) as error:
            answer[0] = f"no network: {' '.join(str(error).split())}"

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_ASK + 0.5)
    return answer[0]


@contextmanager
def _silence_ends() -> Iterator[None]:
    """Give sockets a time limit: torchvision sets none, so a server that falls silent would hold the run for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
