"""What every kind of file has in common: a runtime that runs it, and the reason why there can be none."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flotilla.serving.model import TierModel
from models.evaluation import batch_of
from server_app.folder.tensor_file import write_hashed

INPUT, OUTPUT = "input", "logits"
KEY = "flotilla"  # of the JSON text in a file that says what it is; see `tier_file.described`


class CannotExport(ValueError):
    """No such file can be made of this network, or it would not compute the same; the text says why, in one line."""


class Runtime(Protocol):
    """Runs a file in one thread.

    Attributes:
        most: examples that it takes at a time.
    """

    most: int

    def run(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Logits (N, classes) of one batch (N, *input_shape), float32, or int64 of texts."""


def logits_of(runtime: Runtime, inputs: Tensor) -> Tensor:
    """Logits of any number of examples."""
    batches = torch.split(inputs, min(batch_of(inputs), runtime.most))
    return torch.cat([torch.from_numpy(runtime.run(batch.numpy())) for batch in batches])


def example_of(model: TierModel, count: int) -> Tensor:
    """As many inputs of this network, all zero."""
    facts = model.card.inputs
    return torch.zeros(count, *facts.input_shape, dtype=torch.int64 if facts.vocabulary else torch.float32)


def need(what: str, packages: Sequence[str], extra: str) -> None:
    """See whether packages can be imported.

    Raises:
        CannotExport: one cannot.
    """
    for package in packages:
        try:
            import_module(package)
        except ImportError as error:
            missing = error.name or package
            raise CannotExport(f"{what} needs {missing}: pip install 'flotilla[{extra}]'") from None


def untranslated(model: TierModel, by: str, error: Exception) -> CannotExport:
    """What is said when a translator gives up, in one line."""
    reason = " ".join(str(error.__cause__ or error).split())[:200] or type(error).__name__
    return CannotExport(f"tier {model.card.tier!r}: {by} cannot translate {model.card.network.name!r}: {reason}")


def write_whole(content: bytes, file: Path) -> None:
    """Write the file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    temporary = file.with_name(f".{file.name}")
    try:
        write_hashed(temporary, [content])
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
