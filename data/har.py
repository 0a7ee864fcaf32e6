"""UCI HAR: what a phone at the waist felt while 30 people walked, climbed, sat, stood and lay.

Source: Anguita et al., ESANN 2013. A window is 2.56 s at 50 Hz: body acceleration (3 axes), angular velocity (3) and
total acceleration (3), 9 signals of 128 values; 6 activities; 10,299 windows, each of one subject.

The 9 subjects of UCI's own test part (2,947 windows) are the test set here as well, so nobody who trains is tested: the
7,352 training windows have 21 owners, the natural federation. Read from either of

- `UCIHAR/ucihar_inertial_by_subject.npz`: half_windows float32 [H, 9, 64], window_halves [N, 2] (a window is its two
  halves joined along time; neighbours share them), label [N] from 0, subject [N] from 1;
- `UCIHAR/UCI HAR Dataset/`: the text files of UCI's archive, as they unpack.
"""

from __future__ import annotations

import warnings
import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from data.examples import Examples, Task
from data.fetch import ensure
from data.files import Files
from data.input_facts import SourceFacts
from models.errors import SettingError

_FOLDER, _ARRAYS, _TEXTS = "UCIHAR", "ucihar_inertial_by_subject.npz", "UCI HAR Dataset"
_ADDRESS = "https://archive.ics.uci.edu/dataset/240"
_SIGNALS = tuple(f"{kind}_{axis}" for kind in ("body_acc", "body_gyro", "total_acc") for axis in "xyz")
_ACTIVITIES = ("walking", "walking upstairs", "walking downstairs", "sitting", "standing", "lying")
_CLASSES, _TIME = len(_ACTIVITIES), 128
TEST_SUBJECTS = (2, 4, 9, 10, 12, 13, 18, 20, 24)

Windows = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]  # values [N, 9, 128], labels, subjects


class HAR:
    """Signals of 9 channels and 128 steps; owners are the subjects by their number."""

    images = False
    owned = True

    def inspect(self, files: Files) -> Task:
        """Return 6 classes and the shape (9, 128); the files need not be there."""
        return Task(_CLASSES, (len(_SIGNALS), _TIME))

    def facts(self, files: Files) -> SourceFacts:
        """Activities as UCI names them."""
        del files
        return SourceFacts(classes=_ACTIVITIES)

    def read(self, files: Files) -> tuple[Examples, Examples]:
        """Return the windows of the training subjects and those of the test subjects.

        Raises:
            SettingError: (key data-root) the files are missing or damaged.
        """
        folder = files.root / _FOLDER
        try:
            if (folder / _TEXTS).is_dir() and not (folder / _ARRAYS).is_file():
                found = _from_texts(folder / _TEXTS)
            else:
                ensure(files.root, _FOLDER, (_ARRAYS,), f"{_ADDRESS}, or its archive unpacked to {_FOLDER}/{_TEXTS}")
                found = _from_arrays(folder / _ARRAYS)
            return _divided(*found)
        except (ValueError, KeyError, IndexError, OSError, EOFError, BadZipFile, zlib.error) as error:
            if isinstance(error, SettingError):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            allowed = f"a folder whose {_FOLDER} has undamaged files of UCI HAR ({reason})"
            raise SettingError("data-root", str(files.root), allowed) from error


def _from_arrays(file: Path) -> Windows:
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
        halves, pairs = arrays["half_windows"], arrays["window_halves"]
        labels, subjects = arrays["label"].astype(np.int64), arrays["subject"].astype(np.int64)
    if halves.ndim != 3 or halves.dtype != np.float32 or pairs.shape != (len(labels), 2):
        raise ValueError(f"half_windows {halves.dtype} {halves.shape}, window_halves {pairs.shape}")
    # [N, 2, 9, 64] → [N, 9, 2·64]
    values = halves[pairs].transpose(0, 2, 1, 3).reshape(len(pairs), halves.shape[1], 2 * halves.shape[2])
    return values, labels, subjects


def _from_texts(folder: Path) -> Windows:
    """Read UCI's files; labels stand there from 1."""
    parts = []
    for part in ("train", "test"):
        where = folder / part
        signals = [_table(where / "Inertial Signals" / f"{signal}_{part}.txt") for signal in _SIGNALS]
        labels, subjects = (_table(where / f"{name}_{part}.txt").astype(np.int64)[:, 0] for name in ("y", "subject"))
        parts.append((np.stack(signals, axis=1), labels - 1, subjects))
    values, labels, subjects = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return values, labels, subjects


def _table(file: Path) -> NDArray[np.float32]:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*input contained no data.*")
        try:
            return np.loadtxt(file, dtype=np.float32, ndmin=2)
        except (UserWarning, ValueError) as error:
            raise ValueError(f"{file.name}: {error}") from error


def _divided(
    values: NDArray[np.float32], labels: NDArray[np.int64], subjects: NDArray[np.int64]
) -> tuple[Examples, Examples]:
    """Check the windows and divide them by subject."""
    expected = (len(labels), len(_SIGNALS), _TIME)
    if values.shape != expected or subjects.shape != labels.shape:
        raise ValueError(f"windows {values.shape} instead of {expected}, subjects {subjects.shape}")
    if not np.isfinite(values).all() or labels.min() < 0 or labels.max() >= _CLASSES:
        raise ValueError(f"a value that is not finite, or a label outside 0 to {_CLASSES - 1}")
    tested = np.isin(subjects, TEST_SUBJECTS)
    if tested.all() or not tested.any():
        raise ValueError(f"subjects {TEST_SUBJECTS} are to be tested and others to train: one of them is missing")
    train, test = (
        Examples(*(torch.from_numpy(array[rows]) for array in (values, labels, subjects))) for rows in (~tested, tested)
    )
    return train, test
