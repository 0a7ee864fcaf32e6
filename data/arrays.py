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

from data.array_files import Array, arrays_in
from data.channel_sums import chunk_of
from data.data_error import DataError
from data.examples import Examples, Task
from data.files import Files
from data.input_facts import SourceFacts
from data.matching import in_order, matching
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
        except (BadTable, OSError, ValueError, KeyError, EOFError, BadZipFile, BadZlib) as error:
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
                raise BadTable(f"it has no array {'x' if x is None else 'y'}; it has {', '.join(arrays) or 'none'}")
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
        owners = (
            None
            if who is None
            else torch.from_numpy(np.unique(who, return_inverse=True)[1].reshape(-1).astype(np.int64))
        )
        return Examples(tensor_over(values), self._labels(y, files, part), owners)

    def _labels(self, y: Array, files: Files, part: str) -> torch.Tensor:
        if files.task == "classification":
            if y.ndim != 1:
                raise BadTable(f"array y of the {part} part has shape {list(y.shape)}, and a class each is wanted")
            place = {name: number for number, name in enumerate(self._names(files))}
            different, which = np.unique(y, return_inverse=True)
            numbers = np.array([place[name_of(one)] for one in different.tolist()], dtype=np.int64)
            return torch.from_numpy(numbers[which.reshape(-1)])
        return targets_in(y, files.task, f"array y of the {part} part")

    def _names(self, files: Files) -> tuple[str, ...]:
        """Classes of both parts, ascending; of other tasks the outputs by their number."""
        arrays = self._arrays(files)
        labels = [arrays[name] for name in ("y", "y_train", "y_test") if name in arrays]
        if files.task != "classification":
            return tuple(map(str, range(labels[0].reshape(len(labels[0]), -1).shape[1]))) if labels else ()
        return in_order(name_of(one) for array in labels for one in np.unique(array).tolist())

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
        if not (np.issubdtype(x.dtype, np.number) or x.dtype == np.bool_):
            raise BadTable(f"array x is {x.dtype}, and numbers are wanted")
        x = x.astype(np.float32)
    if x.ndim == 3 and x.dtype == np.uint8:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[3] in _CHANNELS and x.shape[1] not in _CHANNELS:
        x = x.transpose(0, 3, 1, 2)
    if x.ndim not in (2, 3, 4):
        raise BadTable(f"array x has shape {list(x.shape)}, and rows, signals or pictures are wanted")
    return np.ascontiguousarray(x)


def name_of(value: object) -> str:
    """What a class is called that is a number or a text."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
