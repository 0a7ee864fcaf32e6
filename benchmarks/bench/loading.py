"""Loading: 100,000 small pictures, until all of their bytes have been looked at, against reading the files' bytes.

The system has the files in memory, so that no disk counts. A folder of pictures is loaded as it is for a device's
second message and all others: what was decoded for the first one is on disk.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.bench.rows import Row, row_of_turns
from benchmarks.clock import seconds
from benchmarks.document import Say
from data import SOURCES, arrays, image_folder
from data.files import Files

NAME = "loading"
LIMIT = 1.2
_TURNS = 7


def loading(say: Say = print, examples: int = 100_000, pictures: int = 20_000) -> list[Row]:
    """Measure.

    Args:
        say: takes progress.
        examples: of the arrays, grey, 28 x 28.
        pictures: in the folder, likewise.
    """
    rows = []
    with tempfile.TemporaryDirectory(prefix="loading-") as folder:
        home, draws = Path(folder), np.random.default_rng(0)
        x, y = draws.integers(0, 256, (examples, 28, 28), dtype=np.uint8), draws.integers(0, 10, examples)
        np.savez(home / "arrays.npz", x=x, y=y)
        (home / "arrays").mkdir()
        np.save(home / "arrays/x.npy", x)
        np.save(home / "arrays/y.npy", y)
        for dataset, what in (("npz:arrays.npz", ".npz"), ("npz:arrays", ".npy")):
            say(f"loading: {what}")
            files = [home / "arrays.npz"] if what == ".npz" else sorted((home / "arrays").iterdir())
            rows.append(_row(f"{examples:,} pictures in {what}", _loader(dataset, home), files, LIMIT))
        say(f"loading: a folder of {pictures:,} pictures")
        files = _write(home / "pictures", x[:pictures], y)
        with _cache(home / "cache"):
            load = _loader("image-folder", home / "pictures")
            load()  # decodes
            rows.append(_row(f"{pictures:,} PNG files, decoded before", load, files, None))
    return rows


def _row(what: str, load: Callable[[], object], files: Sequence[Path], limit: float | None) -> Row:
    def read() -> None:
        for file in files:
            file.read_bytes()

    turns = [(seconds(load), seconds(read)) for _ in range(_TURNS)]
    return row_of_turns(NAME, f"{what}: load / read the files", turns, unit="ms", scale=1e3, limit=limit)


def _loader(dataset: str, root: Path) -> Callable[[], object]:
    """Load as a process of its own does: nothing is kept from the last time but what is on disk."""

    def load() -> None:
        for kept in (arrays.read_arrays, image_folder.listed):
            kept.cache_clear()
        train, _ = SOURCES[dataset].read(Files(root=root, image_size=28, image_channels=1, own=True))
        train.values.max()

    return load


def _write(folder: Path, pictures: NDArray[np.uint8], labels: NDArray[np.int64]) -> list[Path]:
    files = []
    for number, pixels in enumerate(pictures):
        files.append(folder / str(labels[number]) / f"{number:05}.png")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(files[-1], compress_level=0)
    return files


@contextmanager
def _cache(folder: Path) -> Iterator[None]:
    before = os.environ.get("FLOTILLA_CACHE")
    os.environ["FLOTILLA_CACHE"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("FLOTILLA_CACHE")
        if before is not None:
            os.environ["FLOTILLA_CACHE"] = before
