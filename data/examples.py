"""What a data set is once it is in memory: examples as they come from disk, handed out ready for a network.

Images stay uint8 and texts the smallest integers that hold them, and become float32 and int64 where they are used: a
worker process that serves a few clients of CIFAR-10 holds 184 MB and its clients' shards, not 737 MB.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

# Examples per step when statistics are computed: float64 copies that fit the processor's cache are four times faster.
_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Task:
    """What a network has to know of a data set.

    Attributes:
        classes: number of labels.
        input_shape: of one input: (channels, height, width) of an image, (channels, time) of a signal, (length,) of
            a text.
        vocabulary: number of different tokens of a text; 0 for images and signals.
    """

    classes: int
    input_shape: tuple[int, ...]
    vocabulary: int = 0


@dataclass(frozen=True, eq=False)
class Split:
    """Examples ready for a network.

    Attributes:
        inputs: images [N, C, H, W] or signals [N, C, T] in float32, normalised (see `DataSet`), or tokens [N, T] in
            int64.
        labels: int64 [N], from 0 to classes - 1.
    """

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples as they come from disk.

    Attributes:
        values: images [N, C, H, W] or signals [N, C, T], uint8 or float32 in any unit, which normalisation removes;
            or tokens [N, T] of any integer type.
        labels: int64 [N], from 0 to classes - 1.
        owners: int64 [N], the number of the person that an example is from (a subject, a speaker); None where the
            data set does not say.
    """

    values: Tensor
    labels: Tensor
    owners: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False, kw_only=True)
class DataSet:
    """A classification data set in memory; its tensors are shared by everybody in the process and never written to.

    Every channel of images and signals is shifted and scaled to mean 0 and standard deviation 1 (population, not
    sample) over all positions of the *train* split; the test split goes through the same numbers. A constant channel
    is only shifted. Tokens are left as they are.

    Attributes:
        name: the value of the `dataset` setting.
        task: classes, shape of an input, vocabulary.
        train_examples: the train split as it came from disk.
        test_examples: the test split as it came from disk.
    """

    name: str
    task: Task
    train_examples: Examples
    test_examples: Examples

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.task.classes

    @cached_property
    def train(self) -> Split:
        """The whole train split, made ready on the first use and then kept."""
        return self._ready(self.train_examples)

    @cached_property
    def test(self) -> Split:
        """The whole test split, made ready on the first use and then kept."""
        return self._ready(self.test_examples)

    def select(self, rows: Tensor) -> Split:
        """Return a contiguous copy of some training examples: `train` at `rows` (int64 [n]), without making `train`."""
        examples = self.train_examples
        return self._ready(Examples(examples.values.index_select(0, rows), examples.labels.index_select(0, rows)))

    @cached_property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation per channel of the train split, float32 [C, 1, ...] each, as an input has sides.

        Summed by NumPy, in one thread and so always in the same order: every process gets the same bits. (Sums of
        bytes are exact besides: whole numbers below 2**53.)
        """
        values = self.train_examples.values.numpy()
        others = (0, *range(2, values.ndim))
        total = np.zeros(values.shape[1])
        squares = np.zeros_like(total)
        for start in range(0, len(values), _CHUNK):
            exact = values[start : start + _CHUNK].astype(np.float64)
            total += exact.sum(others)
            squares += np.square(exact, out=exact).sum(others)
        count = values.size // values.shape[1]
        mean = total / count
        std = np.sqrt(np.clip(squares / count - np.square(mean), 0, None))
        std[std == 0] = 1
        shape = (-1, *[1] * (values.ndim - 2))
        return torch.from_numpy(mean).float().reshape(shape), torch.from_numpy(std).float().reshape(shape)

    @cached_property
    def limits(self) -> tuple[Tensor, Tensor]:
        """Least and greatest value of a training pixel in any channel, as an input has them: float32 [C, 1, ...] each.

        What lies between them is the range [0, 1] of pixel units, in whatever unit the files have it.
        """
        values, (mean, std) = self.train_examples.values, self.statistics
        return (values.min().float() - mean) / std, (values.max().float() - mean) / std

    def _ready(self, examples: Examples) -> Split:
        if self.task.vocabulary:
            return Split(examples.values.to(torch.int64), examples.labels)
        mean, std = self.statistics
        return Split(examples.values.to(torch.float32, copy=True).sub_(mean).div_(std), examples.labels)
