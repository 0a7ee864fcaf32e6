"""The embedded default: 1,797 handwritten digits, 8x8, one channel, that ship with scikit-learn.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998 (its test part, as
`sklearn.datasets.load_digits` gives it). Needs no network and no files.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

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
        rows = np.loadtxt(_file(), delimiter=",", dtype=np.uint8)  # 64 pixels, then the label
        values = torch.from_numpy(rows[:, :-1].copy()).reshape(-1, 1, 8, 8)
        labels = rows[:, -1].astype(np.int64)
        targets = torch.from_numpy(labels)
        train, test = (torch.from_numpy(rows) for rows in stratified(labels, "digits-split"))
        return Examples(values[train], targets[train]), Examples(values[test], targets[test])


def _file() -> Path:
    """The file that `sklearn.datasets.load_digits` reads, found without scikit-learn's four seconds of imports."""
    found = find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError('dataset = "digits" ships with scikit-learn: pip install scikit-learn')
    return Path(found.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
