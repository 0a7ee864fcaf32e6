"""The one frame that all codecs but float32 use: a header of 40 bytes, then the payload, as one uint8 array.

    magic "FLTC" | version 2 | kind 2 | agreed 4 | tensors 4 | coordinates 8 | payload 8 | base 4 | checksum 4

All little-endian. `agreed` is a checksum over the codec's settings and the sizes of all tensors, so a frame of other
settings, or of another part with as many coordinates, is not taken for this one; `base` names what the payload adds to
(0: nothing). The checksum (CRC-32) is over the header before it and the payload.

The reader knows from its own settings and plan what every field has to say, and how long a payload may be, before it
looks at the payload. CRC-32 finds accidents; it keeps nobody from making a wrong frame on purpose, so payloads are
checked as well.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

import numpy as np
import numpy.typing as npt
from flwr.app import Array

from protocol.arrays import WireError, decode, encode_bytes, sides_of
from protocol.text import quoted

VERSION = 1
HEADER = 40
_MAGIC = b"FLTC"
_FIELDS = struct.Struct("<4sHHIIQQI")
_CHECKSUM = struct.Struct("<I")

_NAMES = ("magic", "version", "kind", "settings or sizes", "number of tensors", "coordinates", "payload")


@lru_cache(maxsize=128)
def _agreed(settings: str, sizes: tuple[int, ...]) -> int:
    return zlib.crc32(np.asarray(sizes, dtype="<u8").tobytes(), zlib.crc32(settings.encode()))


def write(kind: int, settings: str, sizes: Sequence[int], payload: Sequence[bytes], base: int = 0) -> Array:
    """Frame a payload that consists of these pieces."""
    length = sum(len(piece) for piece in payload)
    agreed = _agreed(settings, tuple(sizes))
    header = _FIELDS.pack(_MAGIC, VERSION, kind, agreed, len(sizes), sum(sizes), length, base)
    checksum = 0
    for piece in chain([header], payload):
        checksum = zlib.crc32(piece, checksum)
    return encode_bytes([header, _CHECKSUM.pack(checksum), *payload])


def read(
    array: Array, kind: int, settings: str, sizes: Sequence[int], least: int, most: int
) -> tuple[npt.NDArray[np.uint8], int]:
    """Open a frame and return its payload, which is not copied, and its base.

    Args:
        array: what arrived.
        kind: of the codec.
        settings: of the codec, as text.
        sizes: of the tensors that the plan implies.
        least, most: bytes that the payload may have.

    Raises:
        WireError: a field says something else, a size is impossible, or the checksum is wrong.
    """
    shape = sides_of(array)
    if shape is None or len(shape) != 1 or not HEADER + least <= shape[0] <= HEADER + most:
        allowed = f"{HEADER + least} bytes" if least == most else f"{HEADER + least} to {HEADER + most} bytes"
        raise WireError(f"expected a frame of {allowed}, got {quoted(array.dtype)} of shape {quoted(array.shape)}")
    data: npt.NDArray[np.uint8] = decode(array, shape[0], "uint8").numpy()
    *said, base = _FIELDS.unpack(data[: _FIELDS.size].data)
    agreed = _agreed(settings, tuple(sizes))
    wanted = [_MAGIC, VERSION, kind, agreed, len(sizes), sum(sizes), shape[0] - HEADER]
    for name, value, expected in zip(_NAMES, said, wanted, strict=True):
        if value != expected:
            raise WireError(f"the frame's {name}: expected {expected!r}, got {value!r}")
    payload = data[HEADER:]
    checksum = zlib.crc32(payload.data, zlib.crc32(data[: _FIELDS.size].data))
    if checksum != _CHECKSUM.unpack(data[_FIELDS.size : HEADER].data)[0]:
        raise WireError("the frame's checksum is wrong")
    return payload, int(base)
