"""Data sets in two halves: one to train a base on, another one to adapt it to.

Of pictures a half has the lower or upper half of the classes, renumbered; of texts that say who speaks, half of the
speakers; or of texts whose classes are characters every other one of these. They are data sets by import path:
`dataset="benchmarks.halves:digits_second"`. What is chosen on a half, such as a learning rate, is chosen with its
`…_tuning`: a tenth of its training examples takes the place of its test set, and the others are trained on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from data.examples import Examples, Task
from data.files import Files
from data.input_facts import SourceFacts
from data.sources import SOURCES

_HELD = 10  # one of so many training examples is held out for tuning
_AT_ONCE = 4096  # pictures


@dataclass(frozen=True, kw_only=True)
class Half:
    """Half of a data set.

    Attributes:
        whole: name of the data set.
        second: whether it is the second half.
        images: as the data set says.
        by_owner: whether speakers are divided, and not classes.
        in_turns: whether every other class is in a half, and not those up to the middle.
        side: to which pictures are brought, each pixel the mean of those that it covers; 0: they stay as they are.
        tuning: whether a tenth of the training examples takes the place of the test set.
    """

    whole: str
    second: bool
    images: bool = True
    by_owner: bool = False
    in_turns: bool = False
    side: int = 0
    tuning: bool = False

    @property
    def owned(self) -> bool:
        """Whether the data set says who an example is from."""
        return bool(SOURCES[self.whole].owned)

    def inspect(self, files: Files) -> Task:
        """The data set's task, with the half's classes."""
        task = SOURCES[self.whole].inspect(files)
        if self.side:
            task = replace(task, input_shape=(task.input_shape[0], self.side, self.side))
        return task if self.by_owner else replace(task, classes=len(self._classes(task.classes)))

    def facts(self, files: Files) -> SourceFacts:
        """What the data set says, with the names of the half's classes."""
        say = getattr(SOURCES[self.whole], "facts", None)
        facts = SourceFacts() if say is None else say(files)
        if self.by_owner or not facts.classes:
            return facts
        kept = self._classes(len(facts.classes))
        return replace(facts, classes=tuple(facts.classes[number] for number in kept))

    def read(self, files: Files) -> tuple[Examples, Examples]:
        """The train and test examples of the half."""
        task = SOURCES[self.whole].inspect(files)
        train, test = SOURCES[self.whole].read(files)
        if self.side:
            train, test = (pooled(examples, self.side) for examples in (train, test))
        if self.tuning:
            held = torch.arange(len(train)) % _HELD == 0
            train, test = _rows(train, ~held), _rows(train, held)
        if not self.by_owner:
            kept = self._classes(task.classes)
            return self._renumbered(train, kept), self._renumbered(test, kept)
        assert train.owners is not None
        middle = int(train.owners.median())
        return self._of_owners(train, middle), self._of_owners(test, middle)

    def _classes(self, count: int) -> range:
        if self.in_turns:
            return range(int(self.second), count, 2)
        return range(count // 2, count) if self.second else range(count // 2)

    def _renumbered(self, examples: Examples, kept: range) -> Examples:
        offset = examples.labels - kept.start
        rows = (offset >= 0) & (examples.labels < kept.stop) & (offset % kept.step == 0)
        part = _rows(examples, rows)
        return replace(part, labels=(part.labels - kept.start) // kept.step)

    def _of_owners(self, examples: Examples, middle: int) -> Examples:
        if examples.owners is None:  # a test part for all
            return examples
        return _rows(examples, (examples.owners > middle) == self.second)


def pooled(examples: Examples, side: int) -> Examples:
    """Pictures brought to a side, each pixel the mean of those that it covers."""
    values = torch.cat([F.adaptive_avg_pool2d(part.float(), side) for part in torch.split(examples.values, _AT_ONCE)])
    return replace(examples, values=values.round().to(examples.values.dtype))


def _rows(examples: Examples, rows: Tensor) -> Examples:
    at = torch.nonzero(rows)[:, 0]
    owners = None if examples.owners is None else examples.owners[at]
    return Examples(examples.values[at], examples.labels[at], owners)


digits_first, digits_second = (Half(whole="digits", second=second) for second in (False, True))
fashion_first, fashion_second = (Half(whole="fashion-mnist", second=second) for second in (False, True))
cifar_first, cifar_second = (Half(whole="cifar10", second=second) for second in (False, True))
shakespeare_first, shakespeare_second = (
    Half(whole="shakespeare", second=second, images=False, by_owner=True) for second in (False, True)
)
letters_first, letters_second = (
    Half(whole="shakespeare", second=second, images=False, in_turns=True) for second in (False, True)
)
small_fashion_first, small_fashion_second = (
    Half(whole="fashion-mnist", second=second, side=16) for second in (False, True)
)
small_fashion_tuning, letters_tuning = (replace(half, tuning=True) for half in (small_fashion_second, letters_second))
