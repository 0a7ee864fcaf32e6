"""LEAF's JSON: `leaf/train/*.json` and `leaf/test/*.json`, each with users and what every one of them has.

Source: Caldas et al., LEAF, arXiv 1812.01097: `{"users": […], "num_samples": […], "user_data": {user: {"x": […], "y":
[…]}}}`. Inputs are rows of numbers, those of a square number a grey picture (FEMNIST: 784 of 0 to 1), or texts of one
length (Shakespeare: 80 characters, and the next one as label). What labels are called is what they are.
"""

from __future__ import annotations

import json
from functools import lru_cache
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.data_error import DataError
from data.examples import Examples, Task
from data.files import Files
from data.input_facts import SourceFacts
from data.matching import in_order
from data.names import names_of
from data.text import RESERVED, UNKNOWN

_FOLDER = "leaf"
# Fixed, so that every device numbers characters alike; others are unknown.
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
_NUMBERS = {character: number for number, character in enumerate(CHARACTERS, RESERVED)}

Row = tuple[str, Any, str]  # user, input, label


class Leaf:
    """LEAF's files as they are; owners are the users of the training part, in the order of their names."""

    images = True
    owned = True

    def inspect(self, files: Files) -> Task:
        """Return the classes and the shape of an input; reads the files.

        Raises:
            SettingError: (key data-root) no such files, or one that is not LEAF's.
        """
        train, test = _rows(files.root)
        return Task(len(_classes(train + test)), *_shape(train + test, files.root))

    def facts(self, files: Files) -> SourceFacts:
        """Labels are their own names; white is 1."""
        train, test = _rows(files.root)
        texts = isinstance(train[0][1], str)
        told = SourceFacts(classes=_classes(train + test), white=1.0)
        return SourceFacts(classes=told.classes, units="characters", tokens=tuple(CHARACTERS)) if texts else told

    def read(self, files: Files) -> tuple[Examples, Examples]:
        """Return what all users have, to train and to test.

        Raises:
            SettingError: as `inspect`.
        """
        train, test = _rows(files.root)
        classes = {name: number for number, name in enumerate(_classes(train + test))}
        users = {name: number for number, name in enumerate(sorted({user for user, _, _ in train}))}
        shape, _ = _shape(train + test, files.root)
        found = []
        for rows in (train, test):
            labels = torch.tensor([classes[label] for _, _, label in rows], dtype=torch.int64)
            owners = torch.tensor([users.get(user, -1) for user, _, _ in rows], dtype=torch.int64)
            found.append(Examples(_values([x for _, x, _ in rows], shape, files.root), labels, owners))
        return found[0], found[1]


@lru_cache(maxsize=2)
def _rows(root: Path) -> tuple[list[Row], list[Row]]:
    train, test = ([row for file in _found(root, part) for row in _read(root, file)] for part in ("train", "test"))
    if not train:
        raise DataError(root, f"a folder with {_FOLDER}/train/*.json", "it has no examples")
    return train, test


def _found(root: Path, part: str) -> list[Path]:
    return sorted((root / _FOLDER / part).glob("*.json"))


def _read(root: Path, file: Path) -> list[Row]:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        found = []
        for user in told["users"]:
            own = told["user_data"][user]
            labels = names_of(own["y"], f"user {user}")
            found += [(str(user), x, label) for x, label in zip(own["x"], labels, strict=True)]
        return found
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        allowed = f"a folder of LEAF's files; {file.relative_to(root)} is none ({reason})"
        raise DataError(root, allowed, "a file of LEAF's cannot be read") from error


def _classes(rows: list[Row]) -> tuple[str, ...]:
    return in_order(label for _, _, label in rows)


def _shape(rows: list[Row], root: Path) -> tuple[tuple[int, ...], int]:
    """Shape of an input and number of tokens."""
    first, (kind, length) = rows[0][0], _kind(rows[0][1])
    seen = dict[str, int]()
    for user, x, _ in rows:
        seen[user] = seen.get(user, 0) + 1
        if _kind(x) != (kind, length) or not length:
            odd = f"example {seen[user]} of user {user} is another than the first of user {first}"
            allowed = f"inputs of one kind and length in {_FOLDER}: {'they are empty' if not length else odd}"
            raise DataError(root, allowed, "inputs are not of one kind and length")
    if kind is str:
        return (length,), len(CHARACTERS) + RESERVED
    side = isqrt(length)
    return ((1, side, side) if side * side == length else (length,)), 0


def _kind(x: Any) -> tuple[type, int]:
    return type(x), len(x) if isinstance(x, str | list) else 0


def _values(inputs: list[Any], shape: tuple[int, ...], root: Path) -> Tensor:
    if inputs and isinstance(inputs[0], str):
        return torch.tensor([[_NUMBERS.get(one, UNKNOWN) for one in x] for x in inputs], dtype=torch.int32)
    try:
        return torch.from_numpy(np.asarray(inputs, dtype=np.float32).reshape(len(inputs), *shape))
    except (ValueError, TypeError) as error:
        raise DataError(root, f"rows of numbers in {_FOLDER} ({error})", "inputs are no numbers") from error
