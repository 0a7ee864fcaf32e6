"""The shape of one example on its way through the layers, and the work that goes with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from models.fused.structure import Affine, Convolution, Flatten, Layer, MaxPool, Mean, NotCoveredError
from models.fused.taps import Taps


def with_inputs(layers: Sequence[Layer], input_shape: Sequence[int]) -> Iterator[tuple[Layer, tuple[int, ...]]]:
    """Every layer with the shape of what it is given of one example.

    Raises:
        NotCoveredError: a layer is not covered for inputs of that shape, or the last one gives no logits.
    """
    shape = tuple(input_shape)
    for layer in layers:
        yield layer, shape
        match layer:
            case Convolution():
                shape = (len(layer.weight), *(Taps.of(layer, shape, side).outputs for side in (0, 1)))
            case Affine():
                if len(shape) != 1:
                    raise NotCoveredError("a linear layer over more than features")
                shape = (len(layer.weight),)
            case MaxPool():
                shape = (shape[0], *map(layer.pooled, shape[1:]))
            case Mean():
                shape = shape[:1]
            case Flatten():
                shape = (prod(shape),)
    if not any(isinstance(layer, Affine) for layer in layers) or len(shape) != 1:
        raise NotCoveredError("no linear layer to end in")


def convolution_macs(layers: Sequence[Layer], input_shape: Sequence[int]) -> int:
    """Multiply-accumulates of all convolutions on one example, forward, where kernels meet inputs."""
    total = 0
    for layer, shape in with_inputs(layers, input_shape):
        if isinstance(layer, Convolution):
            taps = [Taps.of(layer, shape, side) for side in (0, 1)]
            total += len(layer.weight) * shape[0] * prod(tap.count * tap.outputs for tap in taps)
    return total


def largest_outputs(layers: Sequence[Layer], input_shape: Sequence[int]) -> int:
    """Numbers in the largest of the layers' inputs and outputs, of one example."""
    return max(prod(shape) for _, shape in with_inputs(layers, input_shape))
