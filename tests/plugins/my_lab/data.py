"""A data set: stripes along one of four directions, with noise, made where they are needed."""

import numpy as np
import torch
from flotilla.data import Examples, Files, Task
from flotilla.models.settings import Setting, between


class Stripes:
    """Grey images of 8 x 8, four classes."""

    images = True
    owned = False
    OPTIONS = {"noise": Setting(0.2, "standard deviation of the noise, beside stripes of ±1", between(0, 10))}

    def inspect(self, files: Files) -> Task:
        """Four classes of one channel."""
        return Task(4, (1, 8, 8))

    def read(self, files: Files) -> tuple[Examples, Examples]:
        """400 to train, 80 to test."""
        return self._some(400, 1, files), self._some(80, 2, files)

    def _some(self, count: int, seed: int, files: Files) -> Examples:
        draws = np.random.default_rng(seed)
        labels = np.arange(count) % 4
        rows, columns = np.mgrid[0:8, 0:8]
        steps = np.stack([rows, columns, rows + columns, rows - columns])[labels]
        phases = draws.integers(0, 4, (count, 1, 1))
        values = np.where((steps + phases) % 4 < 2, 1.0, -1.0)
        values += float(files.option("noise")) * draws.standard_normal(values.shape)
        return Examples(torch.from_numpy(values).float().unsqueeze(1), torch.from_numpy(labels).long())
