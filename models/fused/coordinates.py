"""The coordinates that a gradient can reach, one after the other: what a step reads, differentiates and moves.

The others are of offsets of a kernel that no input ever meets (of a 3x3 convolution of 1x1 images all but the middle),
and of biases that a norm takes off again. Their gradient is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from models.fused.shapes import with_inputs
from models.fused.structure import Affine, Convolution, Layer, Norm
from models.fused.taps import Taps

LINE = 16  # numbers in a cache line, where a tensor begins
_FEW = 16  # if fewer than one in so many coordinates is not used, those are copied one by one
_ALL = slice(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Own:
    """What is used of a parameter.

    Attributes:
        begin: where it stands in a client's row.
        shape: its own.
        place, strides: where it begins in a client's flat vector, and how its numbers lie there.
    """

    begin: int
    shape: tuple[int, ...]
    place: int
    strides: tuple[int, ...]


class Coordinates:
    """Where each parameter's own stand, of some clients.

    Args:
        layers: of the network.
        places: parameter → where it begins in a client's flat vector.
        input_shape: of one example.
        clients: how many.
        like: of which type the numbers are.

    Attributes:
        weights, gradients: of these coordinates, [clients, coordinates].
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        places: Mapping[Tensor, int],
        *,
        input_shape: Sequence[int],
        clients: int,
        like: Tensor,
    ) -> None:
        self._own = dict[Tensor, _Own]()
        self._last: tuple[Tensor, list[Tensor]] | None = None
        self._unreached: Tensor | None = None
        self._looked = False  # for them
        end = 0
        for parameter, used in _used(layers, input_shape):
            view = torch.empty(parameter.shape, device="meta")[used]
            place = places[parameter] + int(view.storage_offset())
            self._own[parameter] = _Own(begin=end, shape=tuple(view.shape), place=place, strides=view.stride())
            end += view.numel()
        # Every client's begin where those of one alone do, to a cache line: products' sums may depend on it.
        apart = -(-end // LINE) * LINE
        self.weights, self.gradients = (torch.zeros(clients, apart, dtype=like.dtype)[:, :end] for _ in range(2))
        self._weights = [self.weight(parameter) for parameter in self._own]

    def weight(self, parameter: Tensor) -> Tensor:
        """What is used of a parameter, of every client, [K, ...]: a view."""
        return self._of(self.weights, parameter)

    def gradient(self, parameter: Tensor) -> Tensor:
        """Its gradients, [K, ...]: a view."""
        return self._of(self.gradients, parameter)

    def read(self, flats: Tensor) -> None:
        """Take the weights from the clients' flat vectors [K, P]."""
        torch._foreach_copy_(self._weights, self._in(flats))

    def write(self, rows: Tensor, flats: Tensor) -> None:
        """Put weights or gradients where they belong in flat vectors [K, P]; what is not used stays."""
        own = self._weights if rows is self.weights else [self._of(rows, parameter) for parameter in self._own]
        torch._foreach_copy_(self._in(flats), own)

    def write_others(self, starts: Tensor, factors: Sequence[float], flats: Tensor) -> None:
        """Put what is not used into flat vectors.

        Args:
            starts: what it was [K, P].
            factors: by which it is multiplied, of each client.
            flats: where it goes [K, P]; `starts` themselves, or others. Of these, what is used may be written to.
        """
        if not self._looked:
            self._looked, self._unreached = True, self._few_unreached(flats.shape[1])
        unreached, factor = self._unreached, torch.tensor(factors, dtype=flats.dtype).unsqueeze(1)
        if unreached is None:
            torch.mul(starts, factor, out=flats)
        elif len(unreached):
            flats.index_copy_(1, unreached, starts.index_select(1, unreached).mul_(factor))

    def _few_unreached(self, parameters: int) -> Tensor | None:
        """Which of a flat vector's coordinates are not used; None if they are many."""
        used = torch.zeros(1, parameters)
        for place in self._in(used):
            place.fill_(1.0)
        self._last = None
        unreached = (used[0] == 0).nonzero().flatten()
        return unreached if len(unreached) * _FEW <= parameters else None

    def _of(self, rows: Tensor, parameter: Tensor) -> Tensor:
        own = self._own[parameter]
        return rows[:, own.begin : own.begin + prod(own.shape)].view(len(rows), *own.shape)

    def _in(self, flats: Tensor) -> list[Tensor]:
        """Where these coordinates are in flat vectors [K, P]: views, by parameter."""
        if self._last is not None and self._last[0].data_ptr() == flats.data_ptr() and len(flats) == 1:
            return self._last[1]  # a client's vector is always the same
        clients, apart, begin = len(flats), flats.stride(0), flats.storage_offset()
        found = [
            flats.as_strided((clients, *own.shape), (apart, *own.strides), begin + own.place)
            for own in self._own.values()
        ]
        if clients == 1:  # of several they are made anew for every group
            self._last = flats, found
        return found


def _used(layers: Sequence[Layer], input_shape: Sequence[int]) -> list[tuple[Tensor, tuple[slice, ...]]]:
    """Every parameter with what is used of it."""
    found: list[tuple[Tensor, tuple[slice, ...]]] = []
    for layer, shape in with_inputs(layers, input_shape):
        if isinstance(layer, Convolution):
            found.append((layer.weight, (_ALL, _ALL, *(Taps.of(layer, shape, side).used for side in (0, 1)))))
        elif isinstance(layer, Affine | Norm):
            found.append((layer.weight, ()))
        if isinstance(layer, Convolution | Affine | Norm) and layer.bias is not None:
            found.append((layer.bias, ()))
    return found
