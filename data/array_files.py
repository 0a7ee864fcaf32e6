"""NumPy's files, memory-mapped where that can be: .npy, and what a .npz holds uncompressed, as `numpy.savez` writes it.

Nothing is unpickled. What is compressed is read into memory.
"""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from pathlib import Path
from struct import unpack
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

_LOCAL = 30  # bytes of a zip file's local header before the name
_ALIGNED = 8  # bytes; what begins elsewhere is read

Array = NDArray[np.generic]


def arrays_in(file: Path, known: Collection[str]) -> dict[str, Array]:
    """The arrays of a file by their names; not to be written to.

    Args:
        file: .npy, which is named as its file, or .npz.
        known: names that are looked for in a .npz.

    Raises:
        OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error: it is damaged, or holds Python objects.
    """
    if file.suffix.lower() == ".npy":
        return {file.stem: np.load(file, allow_pickle=False, mmap_mode="r")}
    found: dict[str, Array] = {}
    with file.open("rb") as stream, zipfile.ZipFile(stream) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name not in known or name == member.filename:
                continue
            mapped = _mapped(file, stream, member) if member.compress_type == zipfile.ZIP_STORED else None
            if mapped is None:
                with archive.open(member) as content:
                    mapped = np.lib.format.read_array(content, allow_pickle=False)
            found[name] = mapped
    return found


def names_in(file: Path) -> list[str]:
    """What the arrays of a file are called.

    Raises:
        OSError, ValueError, zipfile.BadZipFile: it is damaged.
    """
    if file.suffix.lower() == ".npy":
        return [file.stem]
    with zipfile.ZipFile(file) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _mapped(file: Path, stream: BinaryIO, member: zipfile.ZipInfo) -> Array | None:
    """A member of an archive where it lies; None where it has to be read."""
    stream.seek(member.header_offset)
    head = stream.read(_LOCAL)
    if len(head) < _LOCAL or not head.startswith(b"PK\x03\x04"):
        raise zipfile.BadZipFile(f"{member.filename}: no such member")
    begin = member.header_offset + _LOCAL + sum(unpack("<HH", head[26:30]))
    stream.seek(begin)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        return None
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(stream)
    at = stream.tell()
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if dtype.hasobject or fortran or not size or at % min(_ALIGNED, dtype.itemsize or 1):
        return None
    if at - begin + size != member.file_size:
        raise ValueError(f"{member.filename} is shorter or longer than it says")
    return np.memmap(file, dtype=dtype, mode="r", offset=at, shape=shape)
