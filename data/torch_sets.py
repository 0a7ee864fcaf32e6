"""Data sets of PyTorch: torchvision's by name, and any `torch.utils.data.Dataset` of one's own by import path.

    dataset = "torchvision:SVHN"                     from files below the data root; nothing is downloaded
    dataset = "torchvision:EMNIST(split=letters)"    with arguments of its own
    dataset = "my_lab.birds:Birds"                   a class whose items are (input, label)

Called with `root`, the data root, and `train` or `split`, as far as it has such arguments; without the last two it is
one part, of which some is kept for testing. Items are read once, in order. An input is a picture of Pillow's, which
comes to `image-size`, or an array or tensor of one shape; a label a whole number, or numbers where the task wants them.
Classes are called as `classes` says, if it is there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.arrays import inputs_in
from data.call_text import Call, check_arguments, parse_call
from data.data_error import DataError
from data.disk_cache import Key
from data.examples import Examples, Task
from data.files import Files
from data.input_facts import SourceFacts
from data.on_demand import OnDemand
from data.picture import deep
from data.pil_items import PictureDecoder, shape_of
from data.stored import tensor_over
from data.table_file import BadTable
from data.targets import targets_in
from data.vision import vision_datasets
from models.errors import SettingError

_MOST_FILES = 2**18  # below the data root, that tell whether what was decoded is still what is there
_TEST_SPLITS = ("test", "val", "valid")


class TorchData:
    """A data set whose items are (input, label).

    Args:
        name: of the data set.
        make: gives its class, which is called with what it takes of `root`, `train`, `split` and the arguments.
        call: how the configuration names it, with arguments.
        local: whether its files are those of the machine they are on, and it is somebody's own.
    """

    images = True
    owned = False

    def __init__(self, name: str, make: Callable[[], type], call: Call, *, local: bool) -> None:
        self.name, self.local = name, local
        self._make, self._call = make, call

    def provisional(self, files: Files) -> Task:
        """Two classes, and pictures as the settings say."""
        return Task(2, shape_of(files), kind=files.task)

    def inspect(self, files: Files) -> Task:
        """Return classes and the shape of an input; reads the examples.

        Raises:
            SettingError: as `read`.
        """
        train, _ = self.read(files)
        shape = train.decode.shape if isinstance(train, OnDemand) else tuple(train.values.shape[1:])
        return Task(len(self._classes(files)), shape, kind=files.task)

    def facts(self, files: Files) -> SourceFacts:
        """Classes as it names them, else by their numbers."""
        return SourceFacts(classes=self._classes(files), task=files.task, fit=files.image_fit)

    def read(self, files: Files) -> tuple[Examples, Examples]:
        """Return the training and the test examples.

        Raises:
            SettingError: it cannot be made, or an item cannot be used; names the item.
        """
        train, test, _ = _read(self, files)
        return train, test

    def part(self, files: Files, part: str) -> Any | None:
        """The data set's part as its library gives it; None where it has one part and this is the other."""
        make = self._make()
        signature = _signature(make)
        told: dict[str, Any] = {"root": str(files.root)}
        if "train" in signature.parameters:
            told["train"] = part == "train"
        elif "split" in signature.parameters and "split" not in self._call.arguments:
            told["split"] = "train"
        elif part == "test":
            return None
        splits = _TEST_SPLITS if part == "test" and "split" in told else (told.get("split", ""),)
        why = ""
        for split in splits:
            try:
                arguments = check_arguments(self._call, signature, told | ({"split": split} if split else {}))
                return make(**arguments)
            except (RuntimeError, ValueError, TypeError, OSError, AssertionError, EOFError, ImportError) as error:
                why = why or " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(files.root, f"files of {self.name}: {why}", "its data set cannot be made; its log says why")

    def _classes(self, files: Files) -> tuple[str, ...]:
        train, test, names = _read(self, files)
        if files.task != "classification":
            return tuple(map(str, range(train.labels.shape[1])))
        most = max((int(part.labels.max()) for part in (train, test) if len(part)), default=0)
        return names if len(names) > most else tuple(map(str, range(most + 1)))


def torchvision_set(text: str) -> TorchData:
    """A data set of torchvision's by the name of its class, maybe with arguments.

    Raises:
        SettingError: no such class, or it does not give single pictures with a class each.
    """
    name = f"torchvision:{text}"
    try:
        call = parse_call(text)
    except ValueError as error:
        raise SettingError("dataset", name, f"torchvision:NAME: {error}") from None
    ours = ("root", "train", "download", "transform", "target_transform", "transforms", "loader")
    if taken := [one for one in call.arguments if one in ours]:
        allowed = f"arguments but {', '.join(taken)}: files are there before a run, in data-root, and come as they are"
        raise SettingError("dataset", name, allowed)

    def make() -> type:
        library = vision_datasets()
        kind = getattr(library, call.name, None)
        if call.name not in library.__all__ or not isinstance(kind, type):
            raise SettingError("dataset", name, f"torchvision:NAME, one of {', '.join(library.__all__)}")
        return kind

    return TorchData(name, make, call, local=False)


def own_set(made: Any) -> TorchData | None:
    """A `torch.utils.data.Dataset` that an import path leads to, as a source; None of anything else."""
    from torch.utils.data import Dataset, IterableDataset

    if not (isinstance(made, type) and issubclass(made, Dataset)) or issubclass(made, IterableDataset):
        return None
    name = f"{made.__module__}:{made.__qualname__}"
    return TorchData(name, lambda: made, Call(name=made.__qualname__), local=True)


def _signature(kind: type) -> inspect.Signature:
    """What a class can be called with, by name; what it takes as `**kwargs` is for the class that it is made from."""
    found = dict[str, inspect.Parameter]()
    for base in kind.__mro__:
        try:
            parameters = inspect.signature(base).parameters.values()
        except ValueError:  # of a class that is not written in Python
            break
        for one in parameters:
            if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD) and one.name not in found:
                needed = one.default is one.empty and base is kind
                default = one.default if needed or one.default is not one.empty else None
                found[one.name] = one.replace(kind=one.KEYWORD_ONLY, default=default)
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            break
    return inspect.Signature(list(found.values()))


def _names(items: Any) -> tuple[str, ...]:
    found = getattr(items, "classes", None)
    return tuple(map(str, found)) if isinstance(found, list | tuple) and len(set(map(str, found))) == len(found) else ()


@lru_cache(maxsize=2)
def _read(source: TorchData, files: Files) -> tuple[Examples, Examples, tuple[str, ...]]:
    """The training and the test examples, and what the classes are called if the data set says so."""
    below, items = cache(partial(_below, files.root)), source.part(files, "train")
    train, names = _examples(source, items, files, "train", below=below), _names(items)
    items = source.part(files, "test")
    if items is None:
        return train, train.select(torch.zeros(0, dtype=torch.int64)), names
    return train, _examples(source, items, files, "test", below=below), names


def _examples(
    source: TorchData, items: Any, files: Files, part: str, *, below: Callable[[], list[Path] | None]
) -> Examples:
    if not len(items):
        raise DataError(files.root, f"examples of {source.name}; its {part} part has none", "it has no examples")
    if files.task == "classification" and (quick := _in_memory(source, items)) is not None:
        return quick
    labels = None if source.local else _labels_of(items)  # somebody's own may call anything its labels
    first = _item(source, items, 0, files, part)[0]
    if hasattr(first, "convert"):
        if labels is None or files.task != "classification":
            labels = _labels(
                source, [_item(source, items, row, files, part)[1] for row in range(len(items))], files, part
            )
        key = _key(source, items, files, part, below)
        decode = PictureDecoder(
            files,
            deep(first),
            lambda row: _item(source, items, row, files, part)[0],
            lambda row: f"item {row} of {part}",
        )
        return OnDemand(range(len(items)), decode, labels, key=key)
    pairs = [_item(source, items, row, files, part) for row in range(len(items))]
    return Examples(
        _values(source, [x for x, _ in pairs], files, part), _labels(source, [y for _, y in pairs], files, part)
    )


def _in_memory(source: TorchData, items: Any) -> Examples | None:
    """What torchvision holds as one array of bytes, [N, H, W], [N, H, W, C] or [N, C, H, W], with a class each."""
    values, labels = getattr(items, "data", None), _labels_of(items)
    if source.local or labels is None or not isinstance(values, np.ndarray | Tensor):
        return None
    values = np.asarray(values)
    if values.dtype != np.uint8 or values.ndim not in (3, 4) or len(values) != len(labels):
        return None
    return Examples(tensor_over(inputs_in(values)), labels)


def _labels_of(items: Any) -> Tensor | None:
    """Classes that the data set has in one piece, so that no item need be read for them."""
    for name in ("targets", "labels", "_labels", "y"):
        found = getattr(items, name, None)
        if isinstance(found, Sequence | np.ndarray | Tensor) and len(found) == len(items):
            labels = np.asarray(found)
            if (
                labels.ndim == 1
                and np.issubdtype(labels.dtype, np.integer)
                and getattr(items, "target_transform", None) is None
            ):
                return torch.from_numpy(labels.astype(np.int64))
    return None


def _item(source: TorchData, items: Any, row: int, files: Files, part: str) -> tuple[Any, Any]:
    try:
        x, y = items[row]
    except Exception as error:  # whatever somebody else's code raises
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        allowed = f"items (input, label) of {source.name}; item {row} of its {part} part: {reason}"
        raise DataError(files.root, allowed, "an item cannot be read; its log says which") from error
    return x, y


def _values(source: TorchData, found: list[Any], files: Files, part: str) -> Tensor:
    first = np.asarray(found[0])
    for row, one in enumerate(found):
        if np.asarray(one).shape != first.shape:
            allowed = f"inputs of one shape, {list(first.shape)}; item {row} of {source.name}, {part}, has another one"
            raise DataError(files.root, allowed, "its inputs are not of one shape")
    try:
        return tensor_over(inputs_in(np.stack([np.asarray(one) for one in found])))
    except (BadTable, ValueError, TypeError) as error:
        raise DataError(
            files.root, f"inputs of {source.name} that can be used: {error}", "its inputs cannot be used"
        ) from None


def _labels(source: TorchData, found: list[Any], files: Files, part: str) -> Tensor:
    try:
        if files.task != "classification":
            return targets_in(found, files.task, part)
        labels: NDArray[Any] = np.asarray([np.asarray(one) for one in found])
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"a class is a whole number; item 0 has {found[0]!r}"[:200])
        return torch.from_numpy(labels.astype(np.int64))
    except (ValueError, TypeError) as error:
        allowed = f"labels of {source.name}, {part}, that can be used: {error}"
        raise DataError(files.root, allowed, "its labels cannot be used") from None


def _below(root: Path) -> list[Path] | None:
    """All files below a folder; None where they are too many."""
    found = list[Path]()
    for file in root.rglob("*"):
        if len(found) == _MOST_FILES:
            return None
        if file.is_file():
            found.append(file)
    return sorted(found)


def _key(source: TorchData, items: Any, files: Files, part: str, below: Callable[[], list[Path] | None]) -> Key | None:
    """What pictures are decoded from, None where nobody knows.

    Of a library's data set that is all that is below the data root, if that is not too much; of somebody's own, whose
    pictures may come from anywhere, what it says as `version`.
    """
    how = (source.name, str(files.root), part, shape_of(files), files.image_fit)
    if not source.local:
        found = below()
        return None if found is None else Key.of(how, found)
    told = getattr(items, "version", None)
    return Key.of(how, [], text=told) if isinstance(told, str) and told else None
