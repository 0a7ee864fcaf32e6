"""Codecs without a choice: float32 as it is, float16 and bfloat16."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from flwr.app import Array
from torch import Tensor

from protocol.arrays import decode, encode, vector_in
from protocol.codecs.base import Codec, Decoded, Remembering
from protocol.codecs.bits import Octets
from protocol.reply_room import REPLY_ROOM, ReplyRoom


def floats(values: Tensor) -> bytes:
    """A float vector as little-endian bytes."""
    return values.contiguous().view(torch.uint8).numpy().tobytes()


def floats_of(data: Octets, dtype: torch.dtype = torch.float32) -> Tensor:
    """Read what `floats` wrote."""
    out = torch.empty(len(data) // dtype.itemsize, dtype=dtype)
    out.view(torch.uint8).copy_(torch.from_numpy(data))
    return out


class Plain(Codec):
    """Codec "float32": the vector as an ordinary array, not framed, so that any Flower app can read it."""

    LOSSY = False
    DRAWS = False

    def encode(
        self, flat: Tensor, sizes: Sequence[int], draws: np.random.Generator, memory: Remembering, base: int = 0
    ) -> Array:
        """Copy the bytes, to where the reply goes if that is known; see `Codec.encode`."""
        del sizes, draws, memory, base
        return encode(flat, REPLY_ROOM.get())

    def place(self, room: ReplyRoom, coordinates: int) -> Tensor | None:
        """Behind its array's header; see `Codec.place`."""
        return vector_in(room, coordinates)

    def decode(self, array: Array, sizes: Sequence[int], memory: Remembering) -> Decoded:
        """A view of the bytes; see `Codec.decode`."""
        del memory
        return Decoded(flat=decode(array, sum(sizes)), entropy_bytes=4.0 * sum(sizes))


class Half(Codec):
    """Codecs "float16" and "bfloat16": two bytes a coordinate, rounded to nearest, whatever its tensor."""

    LOSSY = False
    DRAWS = False

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float16 if self.settings.name == "float16" else torch.bfloat16

    def encode(
        self, flat: Tensor, sizes: Sequence[int], draws: np.random.Generator, memory: Remembering, base: int = 0
    ) -> Array:
        """Round; see `Codec.encode`."""
        del draws, memory, base
        half = flat.to(self._dtype)
        if not bool(half.isfinite().all()):
            raise ValueError(f"the difference is not finite, or does not fit {self.settings.name}")
        return self._frame(sizes, [floats(half)])

    def decode(self, array: Array, sizes: Sequence[int], memory: Remembering) -> Decoded:
        """Widen to float32; see `Codec.decode`."""
        del memory
        length = 2 * sum(sizes)
        payload, _ = self._open(array, sizes, length, length)
        return Decoded(flat=floats_of(payload, self._dtype).float(), entropy_bytes=float(length))
