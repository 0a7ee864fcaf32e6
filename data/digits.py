"""The embedded default: 1,797 handwritten digits, 8x8, one channel, that ship with scikit-learn.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998 (its test part, as
`sklearn.datasets.load_digits` gives it). Needs no network and no files.
"""

from __future__ import annotations

import numpy as np
import torch

from data.examples import Examples, Task
from data.files import Files
from data.input_facts import SourceFacts
from data.unsplit import stratified


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
        train, test = (torch.from_numpy(rows) for rows in stratified(labels.astype(np.int64), "digits-split"))
        return Examples(values[train], targets[train]), Examples(values[test], targets[test])
