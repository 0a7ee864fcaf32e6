"""FedPAQ and QSGD: the quantised difference, unbiased, without memory (see `quantiser`).

    payload: small tensors as float32 | a float32 norm per group | the levels

At fixed width a part of p encoded coordinates in g groups takes 4·small + 4·g + ceil(p·(ceil(log2(s + 1)) + 1)/8) bytes
and the frame's header.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
import torch
from flwr.app import Array
from torch import Tensor

from protocol.arrays import WireError
from protocol.codecs.base import Codec, Decoded, Remembering
from protocol.codecs.layout import Layout, layout_of
from protocol.codecs.levels import CODINGS, entropy_bytes
from protocol.codecs.plain import floats, floats_of
from protocol.codecs.quantiser import dequantise, noise, norms, quantise
from protocol.codecs.settings import QUANTISER


class Quantised(Codec):
    """Codec "qsgd"."""

    SETTINGS = QUANTISER
    NOISY = True

    def encode(
        self, flat: Tensor, sizes: Sequence[int], draws: np.random.Generator, memory: Remembering, base: int = 0
    ) -> Array:
        """Quantise; see `Codec.encode`."""
        del memory, base
        layout, s = self._layout(sizes), self.settings
        payload = [floats(layout.take(flat, layout.small))]
        if layout.encoded:
            values = layout.take(flat, layout.large)
            scales = norms(values, layout, s.norm)
            numbers = quantise(values, scales, layout, s.levels, draws)
            payload += [floats(scales), *CODINGS[s.entropy].encode(numbers, s.levels)]
        return self._frame(sizes, payload)

    def decode(self, array: Array, sizes: Sequence[int], memory: Remembering) -> Decoded:
        """Read levels and norms; see `Codec.decode`."""
        del memory
        return self._read(array, sizes)

    def contracted(self, array: Array, sizes: Sequence[int]) -> Tensor:
        """Divide every group by its 1 + ω, which makes the quantiser a contraction; see `Codec.contracted`."""
        return self._read(array, sizes, contract=True).flat

    def _read(self, array: Array, sizes: Sequence[int], *, contract: bool = False) -> Decoded:
        layout, s = self._layout(sizes), self.settings
        raw = 4 * (layout.plain + layout.groups)
        least, most = CODINGS[s.entropy].bounds(layout.encoded, s.levels) if layout.encoded else (0, 0)
        payload, _ = self._open(array, sizes, raw + least, raw + most)
        out = torch.empty(layout.coordinates)
        layout.put(floats_of(payload[: 4 * layout.plain]), layout.small, out)
        if not layout.encoded:
            return Decoded(flat=out, entropy_bytes=float(raw))
        scales = floats_of(payload[4 * layout.plain : raw])
        if not bool((scales >= 0).all() and scales.isfinite().all()):
            raise WireError("a norm is negative or not finite")
        numbers = CODINGS[s.entropy].decode(payload[raw:], layout.encoded, s.levels)
        variance = noise(layout, s.levels)
        if contract:
            scales = scales / (1 + variance)
        layout.put(dequantise(numbers, scales, layout, s.levels), layout.large, out)
        # E‖Q‖² is 1 to 1 + ω times ‖x‖²; twice that for one draw.
        span = 0.5 / sqrt(1 + float(variance.max())), 2.0
        return Decoded(flat=out, entropy_bytes=raw + entropy_bytes(numbers), span=span)

    def _layout(self, sizes: Sequence[int]) -> Layout:
        return layout_of(sizes, self.settings.small, self.settings.scale, self.settings.block)
