"""Top-k with error feedback (Stich et al., NeurIPS 2018, Algorithm 1), one vector over all large tensors.

    p = e + Δ,        send the k largest coordinates of p,        e ← p - sent

so nothing is lost, only late: Σ sent + e = Σ Δ. The residual e is the client's ("residual" in its memory). A client
that has none yet, or lost it, starts at zero: what it held back is lost then, and nothing else goes wrong.

    payload: small tensors as float32 | k values as float32 | their indices
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
import torch
from flwr.app import Array
from torch import Tensor

from models.algebra.rates import share_of
from protocol.codecs.base import Codec, Decoded, Remembering
from protocol.codecs.layout import Layout, layout_of
from protocol.codecs.plain import floats, floats_of
from protocol.codecs.settings import SPARSE
from protocol.codecs.sparse import indices_entropy, indices_length, largest, read_indices, write_indices

RESIDUAL = "residual"


class Sparse(Codec):
    """What codecs of k coordinates share: the payload."""

    SETTINGS = SPARSE

    def _layout(self, sizes: Sequence[int]) -> Layout:
        return layout_of(sizes, self.settings.small)

    def _payload(self, flat: Tensor, layout: Layout, values: Tensor, indices: Tensor) -> list[bytes]:
        small = floats(layout.take(flat, layout.small))
        return [small, floats(values[indices]), write_indices(indices, layout.encoded)]

    @property
    def _span(self) -> tuple[float, float]:
        """The largest k hold at least their share of the squares; what was held back may make up for as much."""
        return sqrt(self.settings.share), 1 / sqrt(self.settings.share)

    def _parts(self, array: Array, sizes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, int, float]:
        """Small coordinates, kept values, their indices, the base and the entropy in bytes."""
        layout = self._layout(sizes)
        k = share_of(self.settings.share, layout.encoded)
        raw = 4 * (layout.plain + k)
        length = raw + indices_length(k, layout.encoded)
        payload, base = self._open(array, sizes, length, length)
        small, values = floats_of(payload[: 4 * layout.plain]), floats_of(payload[4 * layout.plain : raw])
        indices = read_indices(payload[raw:], k, layout.encoded)
        return small, values, indices, base, raw + indices_entropy(k, layout.encoded)


class TopK(Sparse):
    """Codec "topk"."""

    DRAWS = False

    def encode(
        self, flat: Tensor, sizes: Sequence[int], draws: np.random.Generator, memory: Remembering, base: int = 0
    ) -> Array:
        """Send the largest of difference and residual; see `Codec.encode`."""
        del draws, base
        layout, held = self._layout(sizes), memory.read(RESIDUAL)
        total = layout.take(flat, layout.large)
        if held is not None:
            total = total + layout.take(held, layout.large)
        indices = largest(total, share_of(self.settings.share, layout.encoded))
        array = self._frame(sizes, self._payload(flat, layout, total, indices))
        residual = torch.zeros_like(flat)
        layout.put(total.index_fill(0, indices, 0.0), layout.large, residual)
        memory.write(RESIDUAL, residual)
        return array

    def decode(self, array: Array, sizes: Sequence[int], memory: Remembering) -> Decoded:
        """Put the values into zeros; see `Codec.decode`."""
        del memory
        layout = self._layout(sizes)
        small, values, indices, _, entropy = self._parts(array, sizes)
        out, large = torch.empty(layout.coordinates), torch.zeros(layout.encoded)
        large[indices] = values
        layout.put(small, layout.small, out)
        layout.put(large, layout.large, out)
        return Decoded(flat=out, entropy_bytes=entropy, span=self._span)
