"""Memory that is made once and used by every step: activations, patches, gradients under way."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from models.fused.coordinates import Coordinates


class Memory:
    """What the steps of a network share, whatever their numbers of examples and clients: only one runs at a time.

    Attributes:
        user: whose numbers are in it; others have to make their buffers ready.
    """

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self.user: object = None

    def block(self, number: int, numel: int, like: Tensor) -> Tensor:
        """The first `numel` elements of a numbered block, which grows where it is too small."""
        if number == len(self._blocks):
            self._blocks.append(like.new_empty(numel))
        elif self._blocks[number].numel() < numel:
            self._blocks[number] = like.new_empty(numel)
        return self._blocks[number][:numel]


class Buffers:
    """The buffers of a network at one number of examples.

    Args:
        coordinates: weights and gradients.
        memory: where buffers are cut from.
    """

    def __init__(self, coordinates: Coordinates, memory: Memory) -> None:
        self._memory, self._taken = memory, 0
        self._like = coordinates.weights
        self._bordered: list[Tensor] = []
        self.clients = len(self._like)
        self.weight, self.gradient = coordinates.weight, coordinates.gradient

    def empty(self, *shape: int) -> Tensor:
        """A buffer with whatever was there."""
        block = self._memory.block(self._taken, prod(shape), self._like)
        self._taken += 1
        return block.view(shape)

    def bordered(self, shape: tuple[int, ...], border: int) -> Tensor:
        """A buffer [K, C, H, W, B] inside a border of zeros; only a view of what it encloses is given."""
        if not border:
            return self.empty(*shape)
        clients, channels, height, width, batch = shape
        whole = self.empty(clients, channels, height + 2 * border, width + 2 * border, batch)
        self._bordered.append(whole)
        return whole[:, :, border:-border, border:-border]

    def activate(self) -> None:
        """Zero the borders, where steps of another number of examples may have left something."""
        for whole in self._bordered:
            whole.zero_()


def places_of(network: nn.Module, flat: Tensor) -> dict[Tensor, int]:
    """Where each parameter begins in the flat vector that holds them all.

    Raises:
        ValueError: one is not in it.
    """
    storage, begin = flat.untyped_storage().data_ptr(), flat.storage_offset()
    if any(parameter.untyped_storage().data_ptr() != storage for parameter in network.parameters()):
        raise ValueError("a parameter is not part of the flat vector")
    return {parameter: int(parameter.storage_offset() - begin) for parameter in network.parameters()}
