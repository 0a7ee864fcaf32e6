"""A folder of this machine's for what is costly to make again, such as decoded pictures.

It lies below `models.cache_folder`. What lies there is made anew where it is missing, so it can be deleted at any time.
It is bounded: what was not used for longest makes room, and what was made of other files at the same place is removed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

import numpy as np
from numpy.typing import NDArray

from data import picture
from models.cache_folder import private_folder

MOST = 2**34  # bytes of all files together, and never more than half of what the disk has left for them
_BLOCK = 512  # bytes, of st_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What something was made of.

    Attributes:
        place: hash of where the sources are and how they are read.
        content: hash of what they are, and of what decodes pictures.
    """

    place: str
    content: str

    @staticmethod
    def of(how: object, files: Iterable[Path | str], text: str = "") -> Key:
        """The key of what is made of files; of each its name, size and time of change count.

        Args:
            how: everything else that the result depends on, where the files are among it; its text counts.
            files: in their order.
            text: what else says what they are.
        """
        content = hashlib.blake2b(f"{picture.version()}\0".encode(), digest_size=16)
        if text:
            content.update(f"{text}\0".encode())
        for file in files:
            try:
                found = os.stat(file)
            except OSError:
                content.update(f"{file}\0".encode(errors="surrogateescape"))
                continue
            content.update(f"{file}\0{found.st_size}\0{found.st_mtime_ns}\0".encode(errors="surrogateescape"))
        return Key(place=_hash(repr(how)), content=content.hexdigest())

    def name(self, kind: str) -> str:
        """Of a file of this key."""
        return f"{self.place}-{self.content}.{kind}"


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def folder() -> Path | None:
    """The folder, made where it is missing; None where nothing is to be kept, or can be."""
    return private_folder("decoded")


def new_file(key: Key, kind: str, content: bytes = b"", size: int = 0) -> Path:
    """Make a file, whole or not at all, where there is none yet; others of the same place and kind are removed.

    Args:
        key: what it is made of.
        kind: what it is, the ending of its name.
        content: what it begins with.
        size: in bytes, where it is larger than its content; the rest takes no room until it is written.

    Raises:
        OSError: it cannot be made.
    """
    place = folder()
    if place is None:
        raise OSError("nothing is kept")
    target = place / key.name(kind)
    for other in place.glob(f"{key.place}-*.{kind}"):
        if other != target:
            other.unlink(missing_ok=True)
    number, beside = tempfile.mkstemp(prefix=".new-", dir=place)
    try:
        with os.fdopen(number, "wb") as stream:
            stream.write(content)
            if size > len(content):
                stream.truncate(size)
            stream.flush()
            os.fsync(stream.fileno())
        with suppress(FileExistsError):  # somebody else was faster: theirs counts
            os.link(beside, target)
    finally:
        os.unlink(beside)
    return target


def array(key: Key, kind: str, make: Callable[[], NDArray[np.uint8]], length: int) -> NDArray[np.uint8]:
    """Bytes of so many, kept from the last time where they can be."""
    place = folder()
    if place is None:
        return make()
    with suppress(OSError):
        file = place / key.name(kind)
        found = np.fromfile(file, dtype=np.uint8)
        if len(found) == length:
            os.utime(file)  # what is used stays longest
            return found
    made = make()
    with suppress(OSError):
        make_room(made.nbytes)
        new_file(key, kind, made.tobytes())
    return made


def make_room(needed: int, keep: Path | None = None) -> None:
    """Remove what was not used for longest until so many more bytes are within the bounds; nothing if they cannot be.

    Args:
        needed: bytes.
        keep: a file that stays.

    Raises:
        OSError: there is no room for them.
    """
    place = folder()
    if place is None:
        raise OSError("nothing is kept")
    entries, stays = list[tuple[float, int, Path]](), 0  # seconds, bytes
    for one in place.iterdir():
        with suppress(FileNotFoundError):  # another process was faster
            found = one.stat()
            taken = _BLOCK * found.st_blocks
            if one == keep:
                stays = taken
            elif S_ISREG(found.st_mode):
                entries.append((found.st_mtime, taken, one))
    used = stays + sum(taken for _, taken, _ in entries)
    most = min(MOST, (shutil.disk_usage(place).free + used) // 2)
    if stays + needed > most:
        raise OSError(f"{needed} bytes are more than there is room for")
    for _, taken, one in sorted(entries):
        if used + needed <= most:
            return
        one.unlink(missing_ok=True)
        used -= taken
