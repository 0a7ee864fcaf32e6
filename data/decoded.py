"""Decoded examples in a sparse file of this machine's: each is decoded once, by whoever needs it first.

Every message to a deployed device is a process of its own, and clients of a simulation are spread over several; what
one has decoded, the others map into their memory. A file has room for all examples of a part, and takes room only for
those that are there:

    a byte for each example: whether it is there; then, from a multiple of 4096 on, the examples one after the other

An example is written before it is said to be there, and on disk before that, so that neither a crash nor two processes
at once leave half an example.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from logging import INFO, getLogger
from math import prod
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from data.disk_cache import Key, folder, make_room, new_file
from data.stored import tensor_over

_PAGE = 4096
_AT_ONCE = 2**24  # bytes that are decoded at a time
_KIND = "rows"

Make = Callable[[NDArray[np.int64]], NDArray[np.generic]]


def held(
    key: Key, shape: tuple[int, ...], dtype: np.dtype[np.generic], rows: NDArray[np.int64], make: Make
) -> Tensor | None:
    """Decoded examples, memory-mapped, of which the rows that are asked for are there.

    Args:
        key: what they are made of, and how.
        shape: of all: [N, ...].
        dtype: of their values.
        rows: those that are wanted.
        make: decodes some rows: values [n, ...], of this type or one that fits into it.

    Returns:
        [N, ...], not to be written to; None where nothing can be kept here.

    Raises:
        SettingError: as `make` does.
    """
    if not shape[0]:
        return None
    each, first = prod(shape[1:]) * dtype.itemsize, -(-shape[0] // _PAGE) * _PAGE
    size = first + shape[0] * each
    with suppress(OSError):
        file = _file(key, size)
        number = os.open(file, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
        try:
            mapped = mmap.mmap(number, size, access=mmap.ACCESS_READ)
            there = np.frombuffer(mapped, dtype=np.uint8, count=shape[0])
            missing = np.unique(rows[there[rows] == 0])
            if len(missing):
                make_room(len(missing) * each, keep=file)
                _write(number, first, each, missing, _typed(make, dtype, shape))
            os.utime(number)
        finally:
            os.close(number)
        return tensor_over(np.frombuffer(mapped, dtype=dtype, count=prod(shape), offset=first).reshape(shape))
    return None


def _file(key: Key, size: int) -> Path:
    place = folder()
    if place is None:
        raise OSError("nothing is kept")
    file = place / key.name(_KIND)
    if file.exists() and file.stat().st_size != size:
        file.unlink()
    return file if file.exists() else new_file(key, _KIND, size=size)


def _typed(make: Make, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> Make:
    def typed(rows: NDArray[np.int64]) -> NDArray[np.generic]:
        found = make(rows)
        if found.shape != (len(rows), *shape[1:]) or not np.can_cast(found.dtype, dtype):
            raise OSError(f"{found.dtype} {found.shape} where {dtype} is kept")
        return np.ascontiguousarray(found, dtype=dtype)

    return typed


def _write(file: int, first: int, each: int, rows: NDArray[np.int64], make: Make) -> None:
    began, step = perf_counter(), max(1, _AT_ONCE // each)
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        for row, one in zip(chunk.tolist(), make(chunk), strict=True):
            _put(file, one.tobytes(), first + row * each)
        os.fsync(file)
        for row in chunk.tolist():
            _put(file, b"\1", row)
    seconds = perf_counter() - began
    getLogger("flwr").log(INFO, "decoded %d examples in %.1f s; they are kept on disk", len(rows), seconds)


def _put(file: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
