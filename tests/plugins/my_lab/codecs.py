"""A codec: one byte for each coordinate, and one scale for the whole vector."""

import numpy as np
import torch
from flotilla.protocol.codecs import Codec, Decoded
from flotilla.protocol.codecs.plain import floats, floats_of


class Bytes(Codec):
    """Rounds to the nearest of 255 levels; remembers nothing."""

    def encode(self, flat, sizes, draws, memory, base=0):
        if not bool(flat.isfinite().all()):
            raise ValueError("the difference is not finite")
        scale = flat.abs().max().clamp(min=1e-30)
        levels = (flat / scale * 127).round().to(torch.int8)
        return self._frame(sizes, [floats(scale.reshape(1)), levels.numpy().tobytes()])

    def decode(self, array, sizes, memory):
        length = 4 + sum(sizes)
        payload, _ = self._open(array, sizes, length, length)
        levels = torch.from_numpy(payload[4:].view(np.int8).copy())
        return Decoded(flat=levels.float() / 127 * floats_of(payload[:4]), entropy_bytes=float(length))
