"""Which offsets of a kernel ever meet an input."""

from __future__ import annotations

from collections.abc import Sequence

from models.fused.structure import Convolution


class Taps:
    """The offsets of a kernel along one side, and which inputs they meet; others only ever multiply zeros.

    Args:
        kernel: how many offsets there are.
        stride, padding: of the convolution.
        size: length of the input.

    Attributes:
        begin, count: of the offsets that meet an input.
        border: zeros beside the inputs that these reach.
        outputs: length of the output.
        stride: as given.
    """

    def __init__(self, kernel: int, *, stride: int, padding: int, size: int) -> None:
        self.stride, self._padding, self._size = stride, padding, size
        self.outputs = (size + 2 * padding - kernel) // stride + 1
        alive = [tap for tap in range(kernel) if self.meeting(tap, range(self.outputs))]
        self.begin, self.count = alive[0], alive[-1] - alive[0] + 1
        self.border = max(0, -self.place(0, alive[0]), self.place(self.outputs - 1, alive[-1]) - size + 1)

    @staticmethod
    def of(layer: Convolution, shape: Sequence[int], side: int) -> Taps:
        """Of a layer and the shape of one of its inputs, (C, H, W); side 0 is the height."""
        return Taps(layer.weight.shape[2 + side], stride=layer.stride, padding=layer.padding, size=shape[1 + side])

    @property
    def used(self) -> slice:
        """The offsets that meet an input."""
        return slice(self.begin, self.begin + self.count)

    def place(self, output: int, tap: int) -> int:
        """Which input an output sees through an offset of the kernel."""
        return output * self.stride - self._padding + tap

    def meeting(self, tap: int, outputs: range) -> range:
        """Those outputs that see an input through an offset, and not a zero beside it."""
        seen = [output for output in outputs if 0 <= self.place(output, tap) < self._size]
        return range(seen[0], seen[-1] + 1) if seen else range(0)

    def seen(self, tap: int, outputs: range) -> slice:
        """The inputs that these outputs see."""
        return slice(self.place(outputs[0], tap), self.place(outputs[-1], tap) + 1, self.stride)
