"""A flat float vector as one Flower `Array`.

flwr moves every tensor as two requests, two in flight, so a submodel crosses the wire as one flat array. The bytes are
an ordinary `.npy`, so any Flower app can read them; they are written and read here without the extra copies of
`numpy.save` and `numpy.load`.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

from protocol.reply_room import ReplyRoom
from protocol.text import quoted

with (
    warnings.catch_warnings()
):  # torch warns once per process about read-only buffers; received bytes are never written
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(b"\0\0\0\0", dtype="<f4"))

_DTYPES = {
    "float32": (torch.float32, "<f4"),
    "float64": (torch.float64, "<f8"),
    "float16": (torch.float16, "<f2"),
    "uint8": (torch.uint8, "|u1"),
    "uint32": (torch.uint32, "<u4"),
}


class WireError(ValueError):
    """Something that crossed the wire is not what the protocol says."""


def encode(flat: Tensor, room: ReplyRoom | None = None) -> Array:
    """Put a contiguous CPU vector (float16, float32, float64 or uint32) into an `Array`; its bytes are copied once.

    Args:
        flat: the vector.
        room: where the bytes go, if they fit; otherwise they get memory of their own.
    """
    array = flat.detach().numpy()
    written = None if room is None else room.written_by(array)
    if written is not None:
        return _array_over(array.dtype, array.shape, written)
    return _array(array.dtype, array.shape, [np.ascontiguousarray(array).data.cast("B")], room)


def vector_in(room: ReplyRoom, coordinates: int) -> Tensor | None:
    """A float32 vector [coordinates] in a reply's room, which `encode` takes as it lies there; None if it does not fit.

    What is in it at first is not said: it is to be written.
    """
    header = _header(np.dtype(np.float32), (coordinates,))
    place = room.take(len(header) + 4 * coordinates)
    if place is None:
        return None
    place[: len(header)] = header
    vector = np.frombuffer(place, dtype=np.float32, offset=len(header))
    room.expect(vector, place)
    return torch.from_numpy(vector)


def encode_bytes(pieces: Sequence[bytes]) -> Array:
    """Put bytes that lie in several pieces into one uint8 `Array`; they are copied once."""
    return _array(np.dtype(np.uint8), (sum(map(len, pieces)),), pieces)


def _array(
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    pieces: Sequence[bytes | memoryview],
    room: ReplyRoom | None = None,
) -> Array:
    pieces = [_header(dtype, shape), *pieces]
    data = None if room is None else room.take(sum(map(len, pieces)))
    if data is None:
        return Array(str(dtype), shape, "numpy.ndarray", b"".join(pieces))
    end = 0
    for piece in pieces:
        data[end : end + len(piece)] = piece
        end += len(piece)
    return _array_over(dtype, shape, data)


@lru_cache(maxsize=256)  # of few sizes; made anew, one takes longer than a small part's numbers
def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    descr = dtype.newbyteorder("<").str
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    return header.getvalue()


def _array_over(dtype: np.dtype[Any], shape: tuple[int, ...], data: memoryview) -> Array:
    array = Array(str(dtype), shape, "numpy.ndarray", b"")
    array.data = data  # type: ignore[assignment]  # any buffer reads like bytes
    return array


def same_memory(one: Array, other: Array) -> bool:
    """Whether two arrays are the same bytes in memory, not only bytes that are equal, and say the same of them."""
    return one is other or _place(one) == _place(other)


def _place(array: Array) -> tuple[object, ...]:
    octets = np.frombuffer(array.data, dtype=np.uint8)
    return array.dtype, tuple(array.shape), array.stype, octets.ctypes.data, len(octets)


def decode(array: Array, length: int, dtype: str = "float32") -> Tensor:
    """Read a vector of known length without copying; the tensor must not be written to.

    Args:
        array: what arrived.
        length: number of coordinates that the plan implies.
        dtype: the type that the request asked for.

    Raises:
        WireError: another type, shape, format or size than expected. Nothing is allocated before that is known.
    """
    wanted, descr = _DTYPES[dtype]
    if array.dtype != dtype or sides_of(array) != (length,) or array.stype != "numpy.ndarray":
        said = f"{quoted(array.dtype)} of shape {quoted(array.shape)} as {quoted(array.stype)}"
        raise WireError(f"expected {dtype} of shape ({length},), got {said}")
    data = array.data
    expected = length * wanted.itemsize
    offset = len(data) - expected
    if not 10 <= offset <= 4096:
        raise WireError(f"expected {expected} bytes and a header, got {len(data)}")
    _check_header(bytes(data[:offset]), descr, length)
    return torch.from_numpy(np.frombuffer(data, dtype=descr, offset=offset))


def sides_of(array: Array) -> tuple[int, ...] | None:
    """The shape that an array says it has; None if what it says is none."""
    said: object = array.shape
    return tuple(said) if isinstance(said, tuple | list) and all(type(one) is int for one in said) else None


def _check_header(data: bytes, descr: str, length: int) -> None:
    """Hold the header of a version 1.0 .npy array against the one that we would have written.

    It is compared as bytes and not read: it is a Python literal, and parsers of those fail in many ways. Versions of
    NumPy differ only in how many spaces follow.
    """
    if data[:8] != b"\x93NUMPY\x01\x00" or int.from_bytes(data[8:10], "little") != len(data) - 10:
        raise WireError("not the header of a version 1.0 .npy array")
    ours = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({length},), }}".encode()
    if data[10:].rstrip(b" \n") != ours:
        raise WireError(f"the array's header is not that of {descr} ({length},): {quoted(data[10:])}")


def record_of(state: Mapping[str, Tensor]) -> ArrayRecord:
    """A named state as an ordinary Flower record, one array per tensor."""
    return ArrayRecord({name: Array(tensor.detach().cpu().numpy()) for name, tensor in state.items()})


def state_of(record: ArrayRecord, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Read a named state and check it against the network's shapes; float32 copies.

    Raises:
        WireError: names or shapes differ.
    """
    if set(record) != set(shapes):
        missing, extra = sorted(set(shapes) - set(record))[:3], sorted(set(record) - set(shapes))[:3]
        raise WireError(f"the arrays do not fit the network: missing {quoted(missing)}, unexpected {quoted(extra)}")
    state = {}
    for name, shape in shapes.items():
        tensor = torch.from_numpy(record[name].numpy().copy()).float()
        if tuple(tensor.shape) != shape:
            raise WireError(f"{name!r} has shape {tuple(tensor.shape)}, the network {shape}")
        state[name] = tensor
    return state


def bytes_of(record: ArrayRecord) -> int:
    """Encoded bytes of a record's arrays, as they are sent."""
    return sum(len(array.data) for array in record.values())
