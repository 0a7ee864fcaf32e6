"""EF21 (Richtárik, Sokolov, Fatkhullin, NeurIPS 2021, Algorithm 2) on differences, with top-k.

Client i and the server hold the same vector g_i; the client sends C(Δ_i - g_i), and both go to

    g_i ← g_i + C(Δ_i - g_i),

which is what the server takes for Δ_i in its average. With top-k the right-hand side is Δ_i itself at the k coordinates
where g_i is furthest off, and g_i elsewhere; so these k values of Δ_i are sent and nothing is rounded: with a share of
1 it is the plain difference, bit for bit.

Unlike the paper's, clients come and go and hold different parts. So the server keeps a g_i per client, not their sum
(one vector of the network's size per client that has taken part, also in every checkpoint), and clients that are not
there this round do not count in it, as under any other codec. A request names, by its checksum, the g_i that the server
holds; a client that does not hold the same one (it is new, or lost its memory) starts at zero and says so in its frame,
and the server does as well. So the two can never drift apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from flwr.app import Array
from torch import Tensor

from models.algebra.rates import share_of
from protocol.arrays import WireError
from protocol.codecs.base import Decoded, Remembering, checksum
from protocol.codecs.sparse import largest
from protocol.codecs.topk import Sparse

STATE = "ef21"


class EF21(Sparse):
    """Codec "ef21"."""

    REMEMBERS = True
    DRAWS = False

    def encode(
        self, flat: Tensor, sizes: Sequence[int], draws: np.random.Generator, memory: Remembering, base: int = 0
    ) -> Array:
        """Send where g is furthest off; see `Codec.encode`."""
        del draws
        layout, known = self._layout(sizes), memory.read(STATE)
        if base == 0 or checksum(known) != base:
            known, base = None, 0
        values = layout.take(flat, layout.large)
        stale = values if known is None else values - layout.take(known, layout.large)
        indices = largest(stale, share_of(self.settings.share, layout.encoded))
        array = self._frame(sizes, self._payload(flat, layout, values, indices), base)
        memory.write(STATE, self._moved(known, layout.take(flat, layout.small), values[indices], indices, sizes))
        return array

    def decode(self, array: Array, sizes: Sequence[int], memory: Remembering) -> Decoded:
        """Bring g up to date; see `Codec.decode`."""
        small, values, indices, base, entropy = self._parts(array, sizes)
        known = memory.read(STATE) if base else None
        if base and checksum(known) != base:
            raise WireError(f"the frame adds to {base:08x}, the server holds {checksum(known):08x} of this node")
        state = self._moved(known, small, values, indices, sizes)
        return Decoded(flat=state, entropy_bytes=entropy, remember={STATE: state}, span=self._span)

    def base(self, memory: Remembering) -> int:
        """Checksum of this client's g; see `Codec.base`."""
        return checksum(memory.read(STATE))

    def _moved(
        self, known: Tensor | None, small: Tensor, values: Tensor, indices: Tensor, sizes: Sequence[int]
    ) -> Tensor:
        layout = self._layout(sizes)
        out = torch.empty(layout.coordinates)
        large = torch.zeros(layout.encoded) if known is None else layout.take(known, layout.large).clone()
        large[indices] = values
        layout.put(small, layout.small, out)
        layout.put(large, layout.large, out)
        return out
