"""The coordinates that a gradient can reach, one after the other: what a step reads, differentiates and moves.

The others are of offsets of a kernel that no input ever meets (of a 3x3 convolution of 1x1 images all but the middle),
and of biases that a norm takes off again. Their gradient is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from models.fused.shapes import with_inputs
from models.fused.structure import Affine, Convolution, Layer, Norm
from models.fused.taps import Taps

LINE = 16  # numbers in a cache line, where a tensor begins
_ALL = slice(None)


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
        self._places, self._own = places, dict[Tensor, tuple[int, tuple[int, ...], tuple[slice, ...]]]()
        self._last: tuple[Tensor, list[Tensor]] | None = None
        end = 0
        for parameter, used in _used(layers, input_shape):
            shape = tuple(parameter.detach()[used].shape)
            self._own[parameter] = end, shape, used
            end += prod(shape)
        # Every client's begin where those of one alone do, to a cache line: products' sums may depend on it.
        apart = -(-end // LINE) * LINE
        self.weights, self.gradients = (torch.zeros(clients, apart, dtype=like.dtype)[:, :end] for _ in range(2))

    def weight(self, parameter: Tensor) -> Tensor:
        """What is used of a parameter, of every client, [K, ...]: a view."""
        return self._of(self.weights, parameter)

    def gradient(self, parameter: Tensor) -> Tensor:
        """Its gradients, [K, ...]: a view."""
        return self._of(self.gradients, parameter)

    def read(self, flats: Tensor) -> None:
        """Take the weights from the clients' flat vectors [K, P]."""
        torch._foreach_copy_([self.weight(parameter) for parameter in self._own], self._in(flats))

    def write(self, rows: Tensor, flats: Tensor) -> None:
        """Put weights or gradients where they belong in flat vectors [K, P]; what is not used stays."""
        torch._foreach_copy_(self._in(flats), [self._of(rows, parameter) for parameter in self._own])

    def _of(self, rows: Tensor, parameter: Tensor) -> Tensor:
        begin, shape, _ = self._own[parameter]
        return rows[:, begin : begin + prod(shape)].view(len(rows), *shape)

    def _in(self, flats: Tensor) -> list[Tensor]:
        """Where these coordinates are in flat vectors [K, P]: views, by parameter."""
        if self._last is None or self._last[0].data_ptr() != flats.data_ptr():  # a client's vector is always the same
            found = []
            for parameter, (_, _, used) in self._own.items():
                begin = self._places[parameter]
                whole = flats[:, begin : begin + parameter.numel()].view(len(flats), *parameter.shape)
                found.append(whole[(_ALL, *used)])
            if len(flats) > 1:  # made anew for every group
                return found
            self._last = flats, found
        return self._last[1]


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
