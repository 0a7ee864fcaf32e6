"""Images for the benchmarks: CIFAR-10 where it is, else random ones of a similar shape, through the same path."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
    """Yield CIFAR-10 if it is under FLOTILLA_DATA, else random images as Fashion-MNIST's files in a folder."""
    root = Path(DataSettings(dataset="cifar10").data_root)
    cifar = SOURCES["cifar10"]
    assert isinstance(cifar, Published)
    if not synthetic and all((root / cifar.folder / name).is_file() for name in cifar.files):
        yield Images("cifar10", str(root), "CIFAR-10")
        return
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder))
        yield Images("fashion-mnist", folder, "random images, 28x28x1 (CIFAR-10 is not under FLOTILLA_DATA)")


def _write(root: Path) -> None:
    """50,000 random training images and some to test on, as Fashion-MNIST's four files."""
    source = SOURCES["fashion-mnist"]
    assert isinstance(source, Published)
    folder = root / source.folder
    folder.mkdir(parents=True)
    draws = np.random.default_rng(1)
    for part, count in zip((source.files[:2], source.files[2:]), (_TRAIN, _TEST), strict=True):
        pixels = draws.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = draws.integers(0, 10, count, dtype=np.uint8)
        for name, values in zip(part, (pixels, labels), strict=True):
            head = np.array([0x0800 + values.ndim, *values.shape], dtype=">i4")
            (folder / name).write_bytes(head.tobytes() + values.tobytes())
