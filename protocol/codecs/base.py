"""The interface of a codec: what both ends agree on, and what each remembers."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NoReturn, Protocol, cast

import numpy as np
from flwr.app import Array
from torch import Tensor

from protocol.codecs import frame
from protocol.codecs.bits import Octets
from protocol.codecs.settings import CodecSettings
from protocol.reply_room import ReplyRoom


class Remembering(Protocol):
    """What one end keeps of one client from round to round: flat float32 vectors by name."""

    def read(self, name: str) -> Tensor | None:
        """The vector of an earlier round, or None: none yet, or lost."""
        ...

    def write(self, name: str, vector: Tensor) -> None:
        """Keep a vector for later rounds."""
        ...


class _Nothing:
    def read(self, name: str) -> Tensor | None:
        del name
        return None

    def write(self, name: str, vector: Tensor) -> None:
        del name, vector


NOTHING: Remembering = _Nothing()  # a memory that forgets, for codecs that need none


class _NoDraws:
    def __getattr__(self, name: str) -> NoReturn:
        raise TypeError(f"a codec with DRAWS = False asked for draws ({name}): they would be the same for all clients")


NO_DRAWS = cast(np.random.Generator, _NoDraws())  # for codecs that draw nothing


def checksum(vector: Tensor | None) -> int:
    """CRC-32 of a flat float32 vector on the CPU, never 0, which stands for None."""
    return 0 if vector is None else zlib.crc32(vector.contiguous().numpy().data) or 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What the server takes from one array.

    Attributes:
        flat: the difference (float32); it must not be written to.
        entropy_bytes: what an ideal coder of single symbols would need for the same: the empirical entropy of the
            quantised levels, the logarithm of the number of sets of as many indices, and what is sent as it is.
        remember: what the server has to keep of this client, by name, once the reply has counted.
        span: the difference itself is at least and at most so many times as long as `flat`, as far as an honest client
            goes; what a client says of it is held against this.
    """

    flat: Tensor
    entropy_bytes: float
    remember: Mapping[str, Tensor] = field(default_factory=dict)
    span: tuple[float, float] = (1.0, 1.0)


class Codec(ABC):
    """Turns a flat difference into an array and back. Knows nothing of networks: a vector, and its tensors' sizes.

    `encode` is the client's half, `decode` the server's; they share no object, only the settings.

    Args:
        settings: what both ends were told.
    """

    SETTINGS: ClassVar[tuple[str, ...]] = ()  # the fields of `CodecSettings` that it looks at, beside the name
    REMEMBERS: ClassVar[bool] = False  # whether the server, too, has to keep something of each client
    # Whether what arrives may be much longer or shorter than the difference; rounding to 16 bits hardly is.
    LOSSY: ClassVar[bool] = True
    DRAWS: ClassVar[bool] = True  # whether `encode` draws; where it does not, `NO_DRAWS` will do
    NOISY: ClassVar[bool] = False  # whether it is the difference and noise of mean zero, which is each client's own

    def __init__(self, settings: CodecSettings) -> None:
        self.settings = settings
        self._text = settings.to_text()

    @abstractmethod
    def encode(
        self, flat: Tensor, sizes: Sequence[int], draws: np.random.Generator, memory: Remembering, base: int = 0
    ) -> Array:
        """Encode a difference.

        Args:
            flat: float32 vector on the CPU; it is not written to.
            sizes: coordinates of its tensors, in order.
            draws: this client's own generator of this round and the purpose "codec"; `NO_DRAWS` where `DRAWS` is False.
                One generator for all would give all clients the same errors, and averaging would no longer shrink them.
            memory: what this client remembers.
            base: what `base` gave at the server.

        Raises:
            ValueError: the difference is not finite, or does not fit the codec's range.
        """

    def place(self, room: ReplyRoom, coordinates: int) -> Tensor | None:
        """Where in a reply's room `encode` would have a difference of so many float32 coordinates: it copies no other.

        None if it makes something else of it, or if there is too little room.
        """
        del room, coordinates
        return None

    @abstractmethod
    def decode(self, array: Array, sizes: Sequence[int], memory: Remembering) -> Decoded:
        """Decode what a client sent. Nothing larger than a fixed multiple of the part is allocated.

        Args:
            array: what arrived.
            sizes: coordinates of the tensors of the part that the server asked for.
            memory: what the server remembers of this client; it is not written to here.

        Raises:
            WireError: the array is not what these settings and sizes imply, down to the last byte.
        """

    def contracted(self, array: Array, sizes: Sequence[int]) -> Tensor:
        """Decode what C(x) is to be in v ← v + C(x - v): nearer to x - v than zero is, in expectation.

        An unbiased codec need not be that, and then v runs away from x. Codecs that remember nothing only.

        Raises:
            WireError: as `decode`.
        """
        return self.decode(array, sizes, NOTHING).flat

    def base(self, memory: Remembering) -> int:
        """Name what the server holds of a client: a checksum that goes with the request, 0 for nothing."""
        del memory
        return 0

    def _frame(self, sizes: Sequence[int], payload: Sequence[bytes], base: int = 0) -> Array:
        return frame.write(self.settings.kind, self._text, sizes, payload, base)

    def _open(self, array: Array, sizes: Sequence[int], least: int, most: int) -> tuple[Octets, int]:
        return frame.read(array, self.settings.kind, self._text, sizes, least, most)
