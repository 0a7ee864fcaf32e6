"""The embedded default: 1,797 handwritten digits, 8x8, one channel, that ship with scikit-learn.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998 (its test part, as
`sklearn.datasets.load_digits` gives it). Needs no network and no files.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from data.examples import Examples, Task
from data.files import Files
from data.input_facts import SourceFacts
from models.randomness import generator

# One example in five is kept for testing: 360 of 1,797.
_TEST_EVERY = 5
# Not the run's seed: accuracies of runs with different seeds are measured on the same examples.
_SPLIT_SEED = 0


class Digits:
    """Scikit-learn's digits with a fixed stratified split: 1,437 to train, 360 to test."""

    images = True
    owned = False

    def inspect(self, files: Files) -> Task:
        """Return 10 classes and the shape (1, 8, 8)."""
        return Task(10, (1, 8, 8))

    def facts(self, files: Files) -> SourceFacts:
        """Pixels are 0 to 16."""
        del files
        return SourceFacts(white=16.0)

    def read(self, files: Files) -> tuple[Examples, Examples]:
        """Return the train and test pixels, values 0 to 16."""
        from sklearn.datasets import load_digits  # two seconds that users of other sets need not pay

        images, labels = load_digits(return_X_y=True)
        values = torch.from_numpy(images.astype(np.uint8)).reshape(-1, 1, 8, 8)
        targets = torch.from_numpy(labels.astype(np.int64))
        train, test = (torch.from_numpy(rows) for rows in _stratified(labels))
        return Examples(values[train], targets[train]), Examples(values[test], targets[test])


def _stratified(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return train and test rows; every class is split in the same proportion, give or take one example.

    Sorted by class (in random order within each), every fifth example goes to the test split.
    """
    shuffled = generator(_SPLIT_SEED, 0, "server", "digits-split").permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    tested = np.arange(len(labels)) % _TEST_EVERY == 0
    return np.sort(by_class[~tested]), np.sort(by_class[tested])
