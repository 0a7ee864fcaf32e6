"""Examples as code that is not ours gives them, in the form that everything here counts on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def tensor_of(what: str, given: object) -> Tensor:
    """A tensor, or a NumPy array of numbers as one.

    Raises:
        ValueError: neither; says what is allowed.
    """
    if isinstance(given, np.ndarray):
        try:
            return torch.from_numpy(np.ascontiguousarray(given))
        except TypeError:
            raise ValueError(f"{what} of numbers; these are {given.dtype}") from None
    if not isinstance(given, Tensor):
        raise ValueError(f"{what} as a tensor or a NumPy array; these are of type {type(given).__name__}")
    return given


def labels_of(given: object) -> Tensor:
    """Labels as int64 [N], a class each, or as float32 [N, outputs], where a label is no class.

    Raises:
        ValueError: they are neither; says what is allowed.
    """
    labels = tensor_of("labels", given)
    if labels.ndim == 2:
        return labels.to(torch.float32)
    if labels.ndim == 1 and not len(labels):  # a part without examples
        return labels
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            "labels of an integer type [N], a class each, or numbers [N, outputs] where a label is no class;"
            f" these are {_form(labels)}"
        )
    return labels.to(torch.int64)


def inputs_of(given: object) -> Tensor:
    """Inputs [N, …]; numbers that are no integers as float32.

    Raises:
        ValueError: they are something else; says what is allowed.
    """
    inputs = tensor_of("inputs", given)
    if inputs.ndim < (2 if inputs.numel() else 1) or inputs.is_complex():
        raise ValueError(f"inputs [N, …]; these are {_form(inputs)}")
    return inputs.to(torch.float32) if inputs.is_floating_point() else inputs


def examples_of(inputs: object, labels: object) -> tuple[Tensor, Tensor]:
    """Inputs and as many labels.

    Raises:
        ValueError: they are something else; says what is allowed.
    """
    found = inputs_of(inputs)
    return found, as_many("labels", labels_of(labels), len(found))


def as_many(what: str, found: Tensor, count: int) -> Tensor:
    """What belongs to inputs, as many as there are of those.

    Raises:
        ValueError: they are more, or fewer.
    """
    if len(found) != count:
        raise ValueError(f"as many {what} as inputs; there are {count} inputs and {len(found)} {what}")
    return found


def _form(tensor: Tensor) -> str:
    sides = ", ".join(map(str, tensor.shape))
    return f"{str(tensor.dtype).removeprefix('torch.')} [{sides}]"
