"""Images for the benchmarks: CIFAR-10 where it is, else random ones of its shape."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.published import Published
from data.settings import DataSettings
from data.sources import SOURCES

_TRAIN, _TEST = 50_000, 1_000


@dataclass(frozen=True)
class Images:
    """What the benchmarks train on.

    Attributes:
        dataset, data_root: the settings of these names.
        what: in words.
    """

    dataset: str
    data_root: str
    what: str


@contextmanager
def images(*, synthetic: bool = False) -> Iterator[Images]:
    """Yield CIFAR-10 if it is under FLOTILLA_DATA, else random images in a file of NumPy's."""
    root = Path(DataSettings(dataset="cifar10").data_root)
    cifar = SOURCES["cifar10"]
    assert isinstance(cifar, Published)
    if not synthetic and all((root / cifar.folder / name).is_file() for name in cifar.files):
        yield Images("cifar10", str(root), "CIFAR-10")
        return
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder) / "images.npz")
        what = "random images of CIFAR-10's shape (it is not under FLOTILLA_DATA)"
        yield Images("npz:images.npz", folder, what)


def _write(file: Path) -> None:
    """50,000 random training images and some to test on."""
    draws = np.random.default_rng(1)

    def pixels(count: int) -> NDArray[np.uint8]:
        return draws.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)

    def labels(count: int) -> NDArray[np.int64]:
        return draws.integers(0, 10, count)

    np.savez(file, x_train=pixels(_TRAIN), y_train=labels(_TRAIN), x_test=pixels(_TEST), y_test=labels(_TEST))
