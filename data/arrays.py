"""Arrays: `dataset = "npz:digits.npz"`, a file of NumPy's or a folder of .npy files, below the data root.

`x` (or `x_train`) has the inputs and `y` (or `y_train`) the labels; `x_test` and `y_test` are the test part, and
`client` (or `client_train`), numbers or texts, says whose an example is. Inputs are rows [N, features], signals
[N, channels, time] of floats, grey pictures [N, height, width] of bytes, or pictures [N, channels, height, width],
whose channels may also come last. Files are memory-mapped (`data.array_files`). Nothing is unpickled.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from zipfile import BadZipFile
from zlib import error as BadZlib

import numpy as np
import torch
from numpy.typing import NDArray

from data.array_files import Array, arrays_in, names_in
from data.channel_sums import chunk_of
from data.data_error import DataError
from data.examples import Examples, Task
from data.files import Files
from data.input_facts import SourceFacts
from data.matching import in_order, matching
from data.names import name_of
from data.stored import tensor_over
from data.table_file import BadTable
from data.targets import targets_in

_CHANNELS = (1, 3, 4)  # of a picture
_KNOWN = ("x", "y", "client", "x_train", "y_train", "client_train", "x_test", "y_test", "client_test")


class Arrays:
    """Arrays of a file or a folder.

    Args:
        place: the file or the folder, below the data root.
    """

    images = True
    owned = True
    local = True

    def __init__(self, place: str) -> None:
        self.name, self._place = f"npz:{place}", place

    def provisional(self, files: Files) -> Task:
        """Two classes, and pictures of the size that the settings say."""
        return Task(2, (1, files.image_size, files.image_size), kind=files.task)

    def inspect(self, files: Files) -> Task:
        """Return classes and the shape of an input; reads the arrays."""
        train, _ = self.read(files)
        classes = train.labels.shape[1] if train.labels.ndim == 2 else len(self._names(files))
        return Task(classes, tuple(train.values.shape[1:]), kind=files.task)

    def facts(self, files: Files) -> SourceFacts:
        """Classes are named by their numbers."""
        return SourceFacts(classes=self._names(files), task=files.task)

    def read(self, files: Files) -> tuple[Examples, Examples]:
        """Return the training and the test examples.

        Raises:
            DataError: no such file, an array that is missing or of another shape; names file, array and row.
        """
        try:
            return self._part(files, "train"), self._part(files, "test")
        except (BadTable, OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, BadZlib) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            allowed = f"arrays that can be used: {self._place}: {reason}"
            raise DataError(files.root, allowed, "its arrays cannot be used; its log says why") from None

    def _part(self, files: Files, part: str) -> Examples:
        arrays = self._arrays(files)
        x, y, who = (arrays.get(f"{name}_{part}") for name in ("x", "y", "client"))
        if part == "train":
            x, y, who = (
                one if one is not None else arrays.get(name) for one, name in ((x, "x"), (y, "y"), (who, "client"))
            )
            if x is None or y is None:
                has = ", ".join(self._called(files)) or "none"
                raise BadTable(f"it has no array {'x' if x is None else 'y'}; it has {has}")
        elif (x is None) != (y is None):
            raise BadTable(f"it has no array {'x' if x is None else 'y'}_test, and there is the other one")
        elif x is None or y is None:
            train = self._part(files, "train")
            return train.select(torch.zeros(0, dtype=torch.int64))
        values = inputs_in(x)
        for name, one in (("y", y), ("client", who)):
            if one is not None and len(one) != len(values):
                raise BadTable(f"{part}: {len(values)} inputs, and {len(one)} in array {name}")
        if not len(values) and part == "train":
            raise BadTable("it has no examples")
        if (row := _not_finite(values)) is not None:
            raise BadTable(f"array x of the {part} part, row {row}: a value is not finite")
        owners = None
        if who is not None:
            people, which = _named(who, f"array client of the {part} part")
            place = {name: number for number, name in enumerate(in_order(people))}
            owners = torch.from_numpy(np.array([place[name] for name in people], dtype=np.int64)[which])
        return Examples(tensor_over(values), self._labels(y, files, part), owners)

    def _labels(self, y: Array, files: Files, part: str) -> torch.Tensor:
        where = f"array y of the {part} part"
        if files.task == "classification":
            y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
            if y.ndim != 1:
                raise BadTable(f"{where} has shape {list(y.shape)}, and a class each is wanted")
            place = {name: number for number, name in enumerate(self._names(files))}
            names, which = _named(y, where)
            return torch.from_numpy(np.array([place[name] for name in names], dtype=np.int64)[which])
        return targets_in(y, files.task, where)

    def _names(self, files: Files) -> tuple[str, ...]:
        """Classes of both parts, ascending; of other tasks the outputs by their number."""
        arrays = self._arrays(files)
        labels = {name: arrays[name] for name in ("y", "y_train", "y_test") if name in arrays}
        if files.task != "classification":
            first = next(iter(labels.values()), np.zeros((1, 0)))
            return tuple(map(str, range(first.reshape(len(first), -1).shape[1])))
        return in_order(one for name, array in labels.items() for one in _named(array, f"array {name}")[0])

    def _called(self, files: Files) -> list[str]:
        """What all arrays there are called, read or not."""
        return [name for file in matching(files.root, self._place, (".npz", ".npy")) for name in names_in(file)]

    def _arrays(self, files: Files) -> dict[str, Array]:
        found = matching(files.root, self._place, (".npz", ".npy"))
        return read_arrays(tuple((one, one.stat().st_mtime_ns) for one in found))


@lru_cache(maxsize=4)
def read_arrays(files: tuple[tuple[Path, int], ...]) -> dict[str, Array]:
    """The arrays of a file, or of a folder's files by their names; read once as long as nothing changes."""
    found: dict[str, Array] = {}
    for file, _ in files:
        found |= arrays_in(file, _KNOWN)
    return found


def _named(array: Array, where: str) -> tuple[list[str], NDArray[np.int64]]:
    """The names of an array's different values, and which of them each row has.

    Raises:
        BadTable: a number that is not finite; names the row.
    """
    if (row := _not_finite(array)) is not None:
        raise BadTable(f"{where}, row {row}: a value is not finite")
    different, which = np.unique(array, return_inverse=True)
    return [name_of(one) for one in different.tolist()], which.reshape(-1)


def _not_finite(values: Array) -> int | None:
    """The first row with a value that is not finite; looks at a few rows at a time."""
    if not np.issubdtype(values.dtype, np.floating):
        return None
    step = chunk_of(values[:1].size)
    for start in range(0, len(values), step):
        finite = np.isfinite(values[start : start + step])
        if not finite.all():
            return start + int(np.flatnonzero(~finite.reshape(len(finite), -1).all(1))[0])
    return None


def inputs_in(x: Array) -> Array:
    """Inputs of an array with their channels first: bytes, or float32.

    Raises:
        BadTable: no numbers, or of another shape.
    """
    if x.dtype not in (np.uint8, np.float32):
        if x.dtype.kind not in "buif":
            raise BadTable(f"array x is {x.dtype}, and numbers are wanted")
        with np.errstate(over="ignore"):  # what a 32-bit float does not hold is not finite
            x = x.astype(np.float32)
    if x.ndim == 3 and x.dtype == np.uint8:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[3] in _CHANNELS and x.shape[1] not in _CHANNELS:
        x = x.transpose(0, 3, 1, 2)
    if x.ndim not in (2, 3, 4):
        raise BadTable(f"array x has shape {list(x.shape)}, and rows, signals or pictures are wanted")
    return np.ascontiguousarray(x)
