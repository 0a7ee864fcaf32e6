"""What a data set is once it is in memory: examples as they come from disk, handed out ready for a network.

Images stay uint8 and texts the smallest integers that hold them, and become float32 and int64 where they are used: a
worker process that serves a few clients of CIFAR-10 holds 184 MB and its clients' shards, not 737 MB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import KW_ONLY, dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.channel_sums import ChannelSums, channel_sums, chunk_of, moments
from data.input_facts import InputFacts
from data.stored import Scale, Stored, inputs_of

_AT_ONCE = 4096  # texts whose tokens are listed


@dataclass(frozen=True, slots=True)
class Task:
    """What a network has to know of a data set.

    Attributes:
        classes: number of labels, or of numbers that are predicted.
        input_shape: of one input: (channels, height, width) of an image, (channels, time) of a signal, (features,)
            of a row, (length,) of a text.
        vocabulary: number of different tokens of a text; 0 for images, signals and rows.
        kind: what a label is: "classification" (a class), "regression" (as many numbers as `classes`, standardised) or
            "multi-label" (as many times 0 or 1).
    """

    classes: int
    input_shape: tuple[int, ...]
    vocabulary: int = 0
    _: KW_ONLY
    kind: str = "classification"


@dataclass(frozen=True, eq=False)
class Split:
    """Examples ready for a network; what they take as they are stored is bounded, and so is a batch of them.

    Attributes:
        held: images [N, C, H, W] or signals [N, C, T] in float32, normalised (see `DataSet`), or tokens [N, T] in
            int64: as a tensor where that is small, else as they are stored, made ready a batch at a time.
        labels: int64 [N], from 0 to classes - 1; float32 [N, classes] where a label is no class (`Task.kind`).
    """

    held: Tensor | Stored
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def inputs(self) -> Tensor:
        """All of them as one tensor, which may be large."""
        return self.held if isinstance(self.held, Tensor) else self.held.whole()

    @property
    def nbytes(self) -> int:
        """Bytes of inputs, as they are held, and labels."""
        return self.held.nbytes + self.labels.nbytes

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens that occur in texts, ascending.

        Raises:
            ValueError: the inputs are no texts.
        """
        found: set[int] = set()
        for inputs, _ in self.batches(_AT_ONCE):
            if inputs.is_floating_point():
                raise ValueError("these inputs are no texts, and have no tokens")
            found.update(np.unique(inputs.numpy()).tolist())
        return tuple(sorted(found))

    def to(self, device: torch.device) -> Split:
        """The same for another device."""
        return Split(self.held.to(device), self.labels.to(device))

    def select(self, rows: Tensor) -> Split:
        """Some of the examples (int64 [n]), held in the same way."""
        held = self.held[rows] if isinstance(self.held, Tensor) else self.held.select(rows)
        return Split(held, self.labels[rows])

    def batches(self, size: int) -> Iterable[tuple[Tensor, Tensor]]:
        """Inputs and labels in their order, so many at a time."""
        return zip(self.held.split(size), torch.split(self.labels, size), strict=True)


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples as they come from disk.

    Attributes:
        values: images [N, C, H, W] or signals [N, C, T], uint8 or float32 in any unit, which normalisation removes;
            or tokens [N, T] of any integer type.
        labels: int64 [N], from 0 to classes - 1; float32 [N, classes] where a label is no class (`Task.kind`).
        owners: int64 [N], the number of the person that an example is from (a subject, a speaker); None where the
            data set does not say.
    """

    values: Tensor
    labels: Tensor
    owners: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example's values."""
        return tuple(self.values.shape[1:])

    @property
    def classes(self) -> NDArray[np.int64]:
        """The class of every example [N]; the same for all where a label is no class."""
        if self.labels.is_floating_point():
            return np.zeros(len(self.labels), dtype=np.int64)
        return self.labels.numpy()

    @property
    def finite(self) -> bool:
        """Whether every value is a finite number."""
        return not self.values.is_floating_point() or all(bool(np.isfinite(part).all()) for part in self.chunks())

    def held(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Values of some examples (int64 [n]) without a copy: a tensor that has them, and where; None: all in order."""
        return self.values, rows

    def chunks(self) -> Iterator[NDArray[np.generic]]:
        """Values in their order, a few at a time, bounded in bytes (see `data.channel_sums.chunk_of`)."""
        values = self.values.numpy()
        step = chunk_of(values.size // max(1, len(values)))
        for start in range(0, len(values), step):
            yield values[start : start + step]

    def select(self, rows: Tensor) -> Examples:
        """Copies of some examples (int64 [n])."""
        owners = None if self.owners is None else self.owners.index_select(0, rows)
        return Examples(self.values.index_select(0, rows), self.labels.index_select(0, rows), owners)

    def with_labels(self, labels: Tensor) -> Examples:
        """The same with other labels."""
        return Examples(self.values, labels, self.owners)


@dataclass(frozen=True, eq=False, kw_only=True)
class DataSet:
    """A classification data set in memory; its tensors are shared by everybody in the process and never written to.

    Every channel of images and signals is shifted and scaled to mean 0 and standard deviation 1 (population, not
    sample) over all positions of the *train* split, or by the numbers of the run's facts; the test split goes through
    the same. A constant channel is only shifted. Tokens are left as they are.

    Attributes:
        name: the value of the `dataset` setting.
        task: classes, shape of an input, vocabulary.
        train_examples: the train split as it came from disk.
        test_examples: the test split as it came from disk.
        facts: of the run, if it has decided them.
    """

    name: str
    task: Task
    train_examples: Examples
    test_examples: Examples
    facts: InputFacts | None = None

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.task.classes

    @cached_property
    def train(self) -> Split:
        """The whole train split, made ready on the first use and then kept."""
        return self._ready(self.train_examples, None)

    @cached_property
    def test(self) -> Split:
        """The whole test split, made ready on the first use and then kept."""
        return self._ready(self.test_examples, None)

    def select(self, rows: Tensor) -> Split:
        """Return some training examples: `train` at `rows` (int64 [n]), without making `train`."""
        return self._ready(self.train_examples, rows)

    @cached_property
    def sums(self) -> ChannelSums:
        """Sums over the train split, from which statistics come."""
        return channel_sums(self.train_examples.chunks())

    @cached_property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation per channel, float32 [C, 1, ...] each, as an input has sides.

        Those of the facts, else of the train split.
        """
        mean, std = moments(self.sums.sums) if self.facts is None else (self.facts.mean, self.facts.std)
        shape = (-1, *[1] * (len(self.task.input_shape) - 1))
        return torch.tensor(mean).reshape(shape), torch.tensor(std).reshape(shape)

    @cached_property
    def limits(self) -> tuple[Tensor, Tensor]:
        """Least and greatest value of a training pixel in any channel, as an input has them: float32 [C, 1, ...] each.

        What lies between them is the range [0, 1] of pixel units, in whatever unit the files have it.
        """
        mean, std = self.statistics
        told = self.sums if self.facts is None else self.facts
        return (torch.tensor(told.least) - mean) / std, (torch.tensor(told.greatest) - mean) / std

    def _ready(self, examples: Examples, rows: Tensor | None) -> Split:
        scale = Scale() if self.task.vocabulary else Scale(mean=self.statistics[0], std=self.statistics[1])
        wanted = torch.arange(len(examples)) if rows is None else rows
        values, at = examples.held(wanted)
        if rows is None and at is wanted:
            at = None  # all in their order
        return Split(inputs_of(values, at, scale), examples.labels if rows is None else examples.labels[rows])
