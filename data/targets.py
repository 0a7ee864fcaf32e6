"""Labels that are no classes: numbers, or answers of 0 and 1, one or several of each example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.array_files import Array
from data.table_file import BadTable

_NUMBERS = "buif"  # kinds of NumPy's types


def targets_in(told: Sequence[Any] | Array, task: str, where: str) -> Tensor:
    """Numbers that are to be predicted, float32 [N, outputs].

    Args:
        told: of N examples, at least one: a number, or an array of numbers of one shape each.
        task: "regression", or "multi-label", where all are 0 or 1.
        where: says whose they are, for errors.

    Raises:
        BadTable: one is something else; names the row.
    """
    wanted = "0 or 1" if task == "multi-label" else "a finite number"
    if not isinstance(told, np.ndarray) or told.dtype.kind not in _NUMBERS:
        told = _stacked(told, wanted, where)
    targets = told.astype(np.float32).reshape(len(told), -1)
    wrong = ~np.isfinite(targets) | ((targets != 0) & (targets != 1) if task == "multi-label" else False)
    if wrong.any():
        raise BadTable(f"{where}, row {int(np.nonzero(wrong)[0][0])}: {wanted} is wanted")
    return torch.from_numpy(targets)


def _stacked(told: Sequence[Any] | Array, wanted: str, where: str) -> Array:
    rows = list[Array]()
    for row, one in enumerate(map(_array, told)):
        if one is None or one.shape != (rows or [one])[0].shape:
            many = "" if one is None else f", and of the shape {list(rows[0].shape)} as in row 0"
            raise BadTable(f"{where}, row {row}: {wanted} is wanted{many}")
        rows.append(one)
    return np.stack(rows)


def _array(one: Any) -> Array | None:
    try:
        found = np.asarray(one)
    except (ValueError, TypeError, RuntimeError):  # lists of unlike lengths
        return None
    return found if found.dtype.kind in _NUMBERS else None
