"""A network's layers over buffers: outputs of a batch, and gradients of all parameters."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from models.fused.buffers import Buffers, Memory
from models.fused.convolution import Convolved, border_of
from models.fused.coordinates import Coordinates
from models.fused.layers import (
    Averaged,
    Layered,
    Multiplied,
    Normed,
    Pooled,
    Rectified,
    Reshaped,
    Room,
    Scaled,
    gradient,
    log_probabilities,
)
from models.fused.structure import Affine, Convolution, Flatten, Layer, MaxPool, Mean, Norm, Relu, Scale

_KEPT = 32  # sizes of batches


class FusedNetwork:
    """A network of some clients, who have the same part of it and, in a step, batches of the same size.

    Args:
        layers: see `models.fused.structure`.
        coordinates: theirs, of these clients.
        input_shape: of one example.
        memory: where its buffers are cut from; networks of other numbers of clients may have the same.

    Attributes:
        coordinates: weights, read by every step, and gradients, which `Pass.differentiate` writes.
        classes: logits of an example.
        input_shape: as given.
        as_alone: (examples of a batch, threads) → whether clients side by side have been found to get the very numbers
            that each gets alone.
    """

    def __init__(
        self, layers: Sequence[Layer], coordinates: Coordinates, input_shape: Sequence[int], memory: Memory
    ) -> None:
        self._layers, self.coordinates, self.input_shape = layers, coordinates, tuple(input_shape)
        self.classes = next(len(layer.weight) for layer in reversed(layers) if isinstance(layer, Affine))
        self._memory, self._known = memory, dict[int, Pass]()
        self.as_alone: dict[tuple[int, int], bool] = {}

    def of(self, batch: int) -> Pass:
        """The passes for batches of so many examples; ends what was under way for another number."""
        found = self._known.get(batch) or self._made(batch)
        if found is not self._memory.user:
            found.activate()
            self._memory.user = found
            self._known[batch] = self._known.pop(batch)  # the last one to go
        return found

    def _made(self, batch: int) -> Pass:
        if len(self._known) == _KEPT:
            del self._known[next(iter(self._known))]
        self._known[batch] = Pass(self._layers, Buffers(self.coordinates, self._memory), self.input_shape, batch)
        return self._known[batch]


class Pass:
    """The way through the layers for one number of examples.

    Attributes:
        inputs: where a batch is written before `differentiate`, [K, ..., B].
        rows: the same of each client.
        outputs: logits [K, classes, B], after it; those of absent classes are 0.
    """

    def __init__(self, layers: Sequence[Layer], buffers: Buffers, input_shape: Sequence[int], batch: int) -> None:
        self._buffers = buffers
        self._layers: list[Layered] = []
        self.inputs = x = _room(buffers, layers)((buffers.clients, *input_shape, batch))
        self.rows = x.unbind()
        for number, layer in enumerate(layers):
            x = self._add(layer, x, layers[number + 1 :])
        self.outputs = x

    def _add(self, layer: Layer, x: Tensor, rest: Sequence[Layer]) -> Tensor:
        """Append a layer; gives what its outputs are to the next."""
        made = self._made(layer, x, rest, first=all(isinstance(one, Reshaped) for one in self._layers))
        self._layers.append(made)
        products = isinstance(layer, Convolution | Affine | Mean)
        if products and rest and isinstance(rest[0], Convolution) and border_of(rest[0], tuple(made.out.shape)):
            self._layers.append(Scaled(Scale(1.0), made.out, _room(self._buffers, rest)))  # a product has no border
        return self._layers[-1].out

    def _made(self, layer: Layer, x: Tensor, rest: Sequence[Layer], *, first: bool) -> Layered:
        buffers, room = self._buffers, _room(self._buffers, rest)
        match layer:
            case Convolution():
                return Convolved(layer, x, buffers, first=first)
            case Affine():
                return Multiplied(layer, x, buffers, first=first)
            case Norm():
                return Normed(layer, x, buffers, room)
            case Scale():
                return Scaled(layer, x, room)
            case Relu():
                return Rectified(x, room)
            case MaxPool():
                return Pooled(layer, x, room)
            case Flatten():
                return Reshaped(x, (len(x), -1, x.shape[-1]))
            case Mean():
                single = x[0, 0, ..., 0].numel() == 1
                return Reshaped(x, (*x.shape[:2], x.shape[-1])) if single else Averaged(x, buffers)

    def activate(self) -> None:
        """Make the buffers ready after passes of another number of examples."""
        self._buffers.activate()

    def differentiate(self, wanted: Tensor, absent: Tensor | None) -> Tensor:
        """Write the gradients of all parameters of the mean cross entropy of `inputs`.

        Args:
            wanted: one-hot labels [K, classes, B].
            absent: bool [K, classes, 1], classes whose logits count as 0; None where nobody lacks any.

        Returns:
            Logarithms of the probabilities [K, classes, B].
        """
        for layer in self._layers:
            layer.forward()
        logs = log_probabilities(self.outputs, absent)
        found: Tensor | None = gradient(logs, wanted, absent)
        for layer in reversed(self._layers):
            if found is not None:  # what stands before the first layer with parameters needs none
                found = layer.backward(found)
        return logs


def _room(buffers: Buffers, rest: Sequence[Layer]) -> Room:
    """Where a layer puts its outputs: where those that follow it need a border, inside one."""

    def room(shape: tuple[int, ...]) -> Tensor:
        return buffers.bordered(shape, border_of(rest[0], shape) if rest and isinstance(rest[0], Convolution) else 0)

    return room
