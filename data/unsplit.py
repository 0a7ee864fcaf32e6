"""A data set that comes in one part and is divided among simulated clients: some of it is kept for testing."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from data.examples import Examples
from models.randomness import generator

# One example in five is kept for testing.
_TEST_EVERY = 5
# Not the run's seed: accuracies of runs with different seeds are measured on the same examples.
_SPLIT_SEED = 0


def with_test_part(train: Examples, test: Examples) -> tuple[Examples, Examples]:
    """Both parts as they are; where there is no test part, one of the training part, the same for every run."""
    if len(test) or len(train) < 2:
        return train, test
    kept, tested = (torch.from_numpy(rows) for rows in stratified(train.classes, "unsplit"))
    return train.select(kept), train.select(tested)


def stratified(labels: NDArray[np.int64], purpose: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return train and test rows; every class is split in the same proportion, give or take one example.

    Sorted by class (in random order within each), every fifth example goes to the test split.
    """
    shuffled = generator(_SPLIT_SEED, 0, "server", purpose).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    tested = np.arange(len(labels)) % _TEST_EVERY == 0
    return np.sort(by_class[~tested]), np.sort(by_class[tested])
