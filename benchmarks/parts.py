"""Parts of data sets, for many small runs: some training and test examples, drawn once, and smaller pictures.

They are data sets by import path: `dataset="benchmarks.parts:fashion"`. Owners stay, so `partition="natural"` works
where it does on the whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from benchmarks.halves import pooled
from data.examples import Examples, Task
from data.files import Files
from data.input_facts import SourceFacts
from data.sources import SOURCES

_SEED = 1  # of the draw: a part is the same in all runs


@dataclass(frozen=True, kw_only=True)
class Part:
    """Part of a data set.

    Attributes:
        whole: name of the data set.
        train, test: examples of each; as many as there are if there are fewer, 0 is all.
        images: as the data set says.
        side: to which pictures are brought, each pixel the mean of those that it covers; 0: they stay as they are.
    """

    whole: str
    train: int
    test: int
    images: bool = True
    side: int = 0

    @property
    def owned(self) -> bool:
        """Whether the data set says who an example is from."""
        return bool(SOURCES[self.whole].owned)

    def inspect(self, files: Files) -> Task:
        """The data set's task."""
        task = SOURCES[self.whole].inspect(files)
        return replace(task, input_shape=(task.input_shape[0], self.side, self.side)) if self.side else task

    def facts(self, files: Files) -> SourceFacts:
        """What the data set says."""
        say = getattr(SOURCES[self.whole], "facts", None)
        return SourceFacts() if say is None else say(files)

    def read(self, files: Files) -> tuple[Examples, Examples]:
        """The train and test examples that were drawn, in the data set's order."""
        train, test = SOURCES[self.whole].read(files)
        return self._drawn(train, self.train), self._drawn(test, self.test)

    def _drawn(self, examples: Examples, count: int) -> Examples:
        draws = torch.Generator().manual_seed(_SEED)
        if 0 < count < len(examples):
            examples = examples.select(torch.randperm(len(examples), generator=draws)[:count].sort().values)
        return pooled(examples, self.side) if self.side else examples


fashion = Part(whole="fashion-mnist", train=5_000, test=1_000, side=14)
cifar = Part(whole="cifar10", train=5_000, test=1_000, side=16)
har = Part(whole="har", train=4_000, test=1_000, images=False)
shakespeare = Part(whole="shakespeare", train=10_000, test=1_000, images=False)
