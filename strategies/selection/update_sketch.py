"""A short vector for every difference, so that differences of unlike submodels can be compared.

A difference has the coordinates of its submodel; its vector has coordinates of the global state, with 0 where the
device holds nothing:

- "projected": a count sketch (Charikar, Chen, Farach-Colton 2002). Every global coordinate is added, with a random
  sign, to one of `size` sums. Inner products are kept in expectation, squared distances within about sqrt(2/size) of
  themselves; a submodel's coordinates land where the same coordinates of every other submodel land.
- "last-layer": the tensors that run along the class axis, whole.
- "all": every coordinate. Its memory is nodes x parameters.

Buckets and signs are drawn once from the run's seed, so nothing of them has to be saved.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.algebra.axes import Kind, Layout
from models.algebra.submodel import Submodel, split
from models.randomness import generator

KINDS = ("projected", "last-layer", "all")
_CHUNK = 1 << 18  # coordinates summed at a time: their int64 buckets stay in cache


class UpdateSketcher:
    """Makes the vectors of one network and run.

    Args:
        layout: declaration of the full network.
        kind: one of `KINDS`.
        size: coordinates of "projected" vectors.
        seed: seed of the run.

    Attributes:
        size: coordinates of a vector.
    """

    def __init__(self, layout: Layout, kind: str, size: int, seed: int) -> None:
        # Where every coordinate of the state goes: ±(1 + bucket), 0 is nowhere (nor does an element mask hold it).
        if kind == "projected":
            draws = generator(seed, 0, "server", "sketch")
            signed = draws.integers(-size, size, layout.parameters, dtype=np.int32)
            signed[signed >= 0] += 1
            places, self.size = torch.from_numpy(signed), size
        else:
            ends = {name for name, axis in layout.axes.items() if axis.kind is Kind.CLASS}
            chosen = [
                torch.full(tensor.shape, kind == "all" or not ends.isdisjoint(tensor.axes))
                for tensor in layout.tensors.values()
            ]
            wanted = torch.cat([part.reshape(-1) for part in chosen])
            places = torch.where(wanted, wanted.cumsum(0), 0).to(torch.int32)
            self.size = int(wanted.sum())
        self._places = split(places, layout.shapes)

    def vector(self, part: Submodel, difference: Tensor) -> NDArray[np.float32]:
        """Vector of a difference.

        Args:
            part: what the device held.
            difference: flat float32 (part.numel,), in the part's order.

        Returns:
            (size,).
        """
        sums = np.zeros(2 * self.size + 1)
        for places, piece in zip(part.gather(self._places).values(), part.split(difference).values(), strict=True):
            where, values = places.reshape(-1).numpy(), piece.reshape(-1).numpy()
            for start in range(0, len(where), _CHUNK):
                chunk = slice(start, start + _CHUNK)
                # From -size to size, shifted; minus what stands below the middle is the sign.
                sums += np.bincount(where[chunk].astype(np.intp) + self.size, values[chunk], 2 * self.size + 1)
        return (sums[self.size + 1 :] - sums[self.size - 1 :: -1]).astype(np.float32)
