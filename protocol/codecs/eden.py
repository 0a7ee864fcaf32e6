"""EDEN below a bit a coordinate: a random rotation, three levels, Huffman-coded gaps. Unbiased, without memory.

EDEN: Vargaftik et al., ICML 2022 (rotation, deterministic quantiser, unbiased scale; DRIVE, NeurIPS 2021, is its
one-bit case). x, a block of a difference, is rotated (`rotation`), quantised and scaled (`dead_zone`); what is sent are
the signs of the coordinates beyond a threshold, as gaps between them (`gaps`), and a scale for each block:

    q = sign(R·x) where |R·x| ≥ t‖x‖/√B, else 0,        x̂ = ‖x‖²/⟨R·x, q⟩ · Rᵀq

    payload: small tensors as float32 | key of the rotation, 4 bytes | a float32 scale for each block | the signs

At the default of 0.52 bits the squared error is 1.53 times the square of the difference, as that of QSGD with s = 7 in
blocks of 512, for half of the bytes of QSGD with range coding. QSGD rounds every coordinate by a draw of its own, and
the variance of these draws is the price for being unbiased; here the rotation is what is drawn, and coordinates are
rounded to the nearest.

Where this differs from the paper's code: for less than a bit that quantises a random sparse part of the vector to one
bit; its variant for entropy coding has cells of equal width and leaves the coding open. Of such cells next to none but
the middle three are met below a bit, and these are the levels here. Blocks of 4096 instead of the whole vector.

Traps. One transform with random signs is no uniform rotation: where a single coordinate holds a share r of the square
of its block of 4096, it arrives too short on average, by 6 % at r = 0.1, 19 % at 0.3 and 35 % at 0.7, and the others
too long (at r = 1 it is exact, and below 0.05 nothing was to be measured). The key has to be each client's own, or
errors add up. Where tensors are small, a scale of 32 bits is for as few as 64 coordinates. Levels are decided by
float32 sums, whose order another machine's library may choose otherwise: bytes are the same on one machine; what is
read from them is the same on all.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import sqrt

import numpy as np
import torch
from flwr.app import Array
from torch import Tensor

from protocol.arrays import WireError
from protocol.codecs import gaps
from protocol.codecs.base import Codec, Decoded, Remembering
from protocol.codecs.dead_zone import dead_zone, entropy_bytes, quantise
from protocol.codecs.layout import layout_of
from protocol.codecs.plain import floats, floats_of
from protocol.codecs.rotation import Rotation, blocks_of
from protocol.codecs.settings import ROTATED

_KEY = struct.Struct("<I")
_LARGEST_SCALE = 1e30  # beyond it a sum over a block would leave float32


class Eden(Codec):
    """Codec "eden"."""

    SETTINGS = ROTATED
    NOISY = True

    def encode(
        self, flat: Tensor, sizes: Sequence[int], draws: np.random.Generator, memory: Remembering, base: int = 0
    ) -> Array:
        """Rotate and quantise; see `Codec.encode`."""
        del memory, base
        layout, blocks = layout_of(sizes, self.settings.small), blocks_of(sizes, self.settings.small)
        payload = [floats(layout.take(flat, layout.small))]
        if blocks.runs:
            key, zone = int(draws.integers(2**32)), dead_zone(self.settings.bits)
            rotation, signs, scales = Rotation(key, blocks), gaps.Writer(), torch.empty(len(blocks.widths))
            for run in blocks.runs:
                rows, norms = rotation.there(flat, run)
                if not bool(norms.isfinite().all()):
                    raise ValueError("the difference is not finite, or its square is too large for float32")
                levels = quantise(rows, norms, zone, rotation.spare(run))
                signs.add(levels.positions + run.at, levels.negative)
                scales[run.blocks] = torch.from_numpy(levels.scales)
            payload += [_KEY.pack(key), floats(scales), signs.written()]
        return self._frame(sizes, payload)

    def decode(self, array: Array, sizes: Sequence[int], memory: Remembering) -> Decoded:
        """Read signs and scales; see `Codec.decode`."""
        del memory
        return self._read(array, sizes, 1.0)

    def contracted(self, array: Array, sizes: Sequence[int]) -> Tensor:
        """Divide every block by 1 + ω; see `Codec.contracted`."""
        return self._read(array, sizes, 1 / (1 + dead_zone(self.settings.bits).noise)).flat

    def _read(self, array: Array, sizes: Sequence[int], factor: float) -> Decoded:
        layout, blocks = layout_of(sizes, self.settings.small), blocks_of(sizes, self.settings.small)
        plain = 4 * layout.plain
        raw = plain + (_KEY.size + 4 * len(blocks.widths) if blocks.runs else 0)
        least, most = gaps.bounds(blocks.length) if blocks.runs else (0, 0)
        payload, _ = self._open(array, sizes, raw + least, raw + most)
        out = torch.empty(layout.coordinates)
        layout.put(floats_of(payload[:plain]), layout.small, out)
        if not blocks.runs:
            return Decoded(flat=out, entropy_bytes=float(raw))
        (key,) = _KEY.unpack(payload[plain : plain + _KEY.size].data)
        scales = floats_of(payload[plain + _KEY.size : raw])
        positions, negative = gaps.decode(payload[raw:], blocks.length)
        edges = np.searchsorted(positions, blocks.edges)
        counts = np.diff(edges)
        if not bool((scales >= 0).all() and (scales <= _LARGEST_SCALE).all()):
            raise WireError("a scale is negative, too large or not finite")
        if not np.array_equal(scales.numpy() > 0, counts > 0):
            raise WireError("a block has signs and no scale, or a scale and no signs")
        values = 1 - 2 * negative.astype(np.float32)
        rotation = Rotation(key, blocks)
        for run in blocks.runs:
            first, last = edges[run.first], edges[run.first + run.rows]
            rows = rotation.rows(run).zero_()
            rows.numpy().reshape(-1)[positions[first:last] - run.at] = values[first:last]
            rotation.back(run, scales * factor, out)
        # It is never shorter than the difference; longer by √(1 + ω), twice that for a block that is like no other.
        span = 0.5 / sqrt(1 + dead_zone(self.settings.bits).noise), 1.001
        return Decoded(flat=out, entropy_bytes=raw + entropy_bytes(counts, blocks.widths), span=span)
