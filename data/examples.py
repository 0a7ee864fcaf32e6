"""What a data set is once it is in memory: pixels as bytes, handed out as normalised float tensors.

The pixels stay uint8, as they come from disk, and become float32 where they are used: a worker process that serves a
few clients of CIFAR-10 holds 184 MB and its clients' shards, not 737 MB.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

# Examples per step when statistics are computed: float64 copies that fit the processor's cache are four times faster.
_CHUNK = 512


@dataclass(frozen=True, eq=False)
class Split:
    """Examples ready for a network.

    Attributes:
        inputs: float32 [N, C, H, W], normalised (see `DataSet`).
        labels: int64 [N], from 0 to classes - 1.
    """

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Pixels:
    """Examples as they come from disk.

    Attributes:
        values: uint8 [N, C, H, W]; the unit does not matter, normalisation removes it.
        labels: int64 [N], from 0 to classes - 1.
    """

    values: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class DataSet:
    """A classification data set in memory; its tensors are shared by everybody in the process and never written to.

    Every channel is shifted and scaled to mean 0 and standard deviation 1 (population, not sample) over all pixels of
    the *train* split; the test split goes through the same numbers. A constant channel is only shifted.

    Attributes:
        name: the value of the `dataset` setting.
        classes: number of classes.
        train_pixels: the train split as bytes.
        test_pixels: the test split as bytes.
    """

    name: str
    classes: int
    train_pixels: Pixels
    test_pixels: Pixels

    @cached_property
    def train(self) -> Split:
        """The whole train split, normalised on the first use and then kept."""
        return self._normalised(self.train_pixels)

    @cached_property
    def test(self) -> Split:
        """The whole test split, normalised on the first use and then kept."""
        return self._normalised(self.test_pixels)

    def select(self, rows: Tensor) -> Split:
        """Return a contiguous copy of some training examples: `train` at `rows` (int64 [n]), without making `train`."""
        pixels = self.train_pixels
        return self._normalised(Pixels(pixels.values.index_select(0, rows), pixels.labels.index_select(0, rows)))

    @cached_property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation per channel of the train split's bytes, float32 [C, 1, 1] each.

        Sums of bytes are whole numbers below 2**53, so float64 holds them exactly and their order does not matter.
        """
        values = self.train_pixels.values
        total = torch.zeros(values.shape[1], dtype=torch.float64)
        squares = torch.zeros_like(total)
        for start in range(0, len(values), _CHUNK):
            exact = values[start : start + _CHUNK].double()
            total += exact.sum(dim=(0, 2, 3))
            squares += exact.square_().sum(dim=(0, 2, 3))
        count = values.numel() // values.shape[1]
        mean = total / count
        variance = (squares / count - mean.square()).clamp_(min=0)
        std = torch.where(variance > 0, variance.sqrt(), 1.0)
        return mean.float().reshape(-1, 1, 1), std.float().reshape(-1, 1, 1)

    def _normalised(self, pixels: Pixels) -> Split:
        mean, std = self.statistics
        return Split(pixels.values.to(torch.float32).sub_(mean).div_(std), pixels.labels)
