"""What is in a file, or in hand, as an input of a network: pictures, texts, arrays."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.columns import Columns
from data.input_facts import InputFacts
from data.picture import errors, pixels, read_picture
from data.table_file import SUFFIXES, BadTable, read_table
from data.text import RESERVED, UNKNOWN
from data.tokens import numbered, prompts
from models.networks.spec import PADDING

if TYPE_CHECKING:
    from PIL.Image import Image

_BY_TOKENIZER = {"subwords": numbered, "tokens before": prompts}  # units → tokens of texts
_ARRAYS, _TABLES = frozenset({".npy"}), frozenset({".csv"})
_LONGEST = 2**28  # bytes of a file of arrays, rows or text


class UnusableInput(ValueError):
    """What cannot be an input of this network; the text says why, in one line."""


class Preprocess:
    """Makes inputs (N, *input_shape) as the network was evaluated with.

    Called with a path, a text (where inputs are texts), a Pillow image, or an array or tensor of values as they stand
    in the data's files: one example or several.

    Args:
        facts: of the data that it was trained on.
    """

    def __init__(self, facts: InputFacts) -> None:
        self.facts = facts

    def __call__(self, one: Any) -> Tensor:
        """Make inputs.

        Raises:
            UnusableInput: the network cannot take this.
        """
        if isinstance(one, Path) or (isinstance(one, str) and not self.facts.vocabulary):
            return self.file(Path(one))
        if isinstance(one, str):
            return self.text([one])
        if isinstance(one, np.ndarray | Tensor):
            return self.values(torch.as_tensor(one))
        if isinstance(one, Sequence) and one and all(isinstance(text, str) for text in one) and self.facts.vocabulary:
            return self.text(one)
        if hasattr(one, "convert") and hasattr(one, "resize"):
            return self.picture(one)
        raise UnusableInput(f"{type(one).__name__}: allowed is a path, a text, a picture, an array or a tensor")

    def file(self, path: Path) -> Tensor:
        """Inputs of a file: .npy and .csv hold values, other files a picture, or a text a line.

        Raises:
            UnusableInput: it cannot be read, or is something else.
        """
        kind = path.suffix.lower()
        try:
            if not path.is_file():
                raise UnusableInput(f"{path}: no such file")
            if self.columns is not None and kind not in _ARRAYS:
                return self._table(path)
            if kind in _ARRAYS | _TABLES or self.facts.vocabulary:
                if path.stat().st_size > _LONGEST:
                    raise UnusableInput(f"{path}: more than {_LONGEST} bytes")
                return self._rows_or_lines(path, kind)
            if not self.facts.images:
                raise UnusableInput(f"{path}: allowed is .npy or .csv; {self.facts.dataset!r} has no pictures")
            return self._picture_file(path)
        except UnusableInput as error:
            raise UnusableInput(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None
        except (OSError, ValueError) as error:
            raise UnusableInput(f"{path}: {' '.join(str(error).split())}") from None

    def values(self, values: Tensor) -> Tensor:
        """Inputs of values as they stand in the data's files: (*input_shape) or (N, *input_shape), or flat rows.

        Raises:
            UnusableInput: another shape, or a value that is not finite or no token.
        """
        shape = self.facts.input_shape
        inner = shape[1:] if shape[0] == 1 and len(shape) > 1 else None  # what one channel may be given as
        if values.shape[-len(shape) :] != shape:
            if inner and values.ndim in (len(inner), len(inner) + 1) and values.shape[-len(inner) :] == inner:
                values = values.unsqueeze(-len(shape))
            elif values.ndim in (1, 2) and values.shape[-1] == prod(shape):
                values = values.reshape(*values.shape[:-1], *shape)
        if values.shape == shape:
            values = values.unsqueeze(0)
        if values.ndim != len(shape) + 1 or values.shape[1:] != shape:
            raise UnusableInput(
                f"values of shape {tuple(values.shape)}: allowed is {shape} or (N, {', '.join(map(str, shape))})"
            )
        if self.facts.vocabulary:
            if values.is_floating_point() or values.min() < 0 or values.max() >= self.facts.vocabulary:
                raise UnusableInput(f"tokens: allowed are whole numbers from 0 to {self.facts.vocabulary - 1}")
            return values.to(torch.int64)
        if not values.isfinite().all():
            raise UnusableInput("a value is not finite")
        mean, std = self._moments
        return values.to(torch.float32, copy=True).sub_(mean).div_(std)

    def text(self, texts: Sequence[str]) -> Tensor:
        """Tokens of texts: words of a sentence from its beginning, characters up to the text's end.

        Raises:
            UnusableInput: there is none, or the run did not keep how its texts are divided.
        """
        (length,) = self.facts.input_shape
        if not self.facts.units:
            raise UnusableInput(f"texts of {self.facts.dataset!r} are given as tokens, in an array")
        if (tokens_of := _BY_TOKENIZER.get(self.facts.units)) is not None:
            if not all(text.strip() for text in texts):
                raise UnusableInput("an empty text")
            return torch.tensor(tokens_of(self.facts.details, texts, length))
        rows = torch.full((len(texts), length), PADDING, dtype=torch.int64)
        for row, text in enumerate(texts):
            parts = text.split()[:length] if self.facts.units == "words" else list(text)[-length:]
            if not parts:
                raise UnusableInput("an empty text")
            rows[row, : len(parts)] = torch.tensor([self._numbers.get(part, UNKNOWN) for part in parts])
        return rows

    def picture(self, image: Image) -> Tensor:
        """The input of one picture: grey or colour as the data, resized; 16 bit scaled by their range.

        Raises:
            UnusableInput: inputs are no pictures.
        """
        if not self.facts.images:
            raise UnusableInput(f"a picture; {self.facts.dataset!r} has none")
        try:
            return self._from_pixels(pixels(image, self._shape, self.facts.fit))
        except errors() as error:
            raise UnusableInput(f"a picture: {' '.join(str(error).split())}") from None

    def _picture_file(self, path: Path) -> Tensor:
        try:
            return self._from_pixels(read_picture(path, self._shape, self.facts.fit))
        except errors() as error:
            raise UnusableInput(f"{path}: {' '.join(str(error).split())}") from None

    @property
    def _shape(self) -> tuple[int, int, int]:
        channels, height, width = self.facts.input_shape
        return channels, height, width

    def _from_pixels(self, found: NDArray[Any]) -> Tensor:
        values = torch.from_numpy(found)
        return self.values(values if self.facts.white == 255 else values * (self.facts.white / 255))

    def _rows_or_lines(self, path: Path, kind: str) -> Tensor:
        if kind in _ARRAYS:
            found: NDArray[Any] = np.load(path, allow_pickle=False)
            return self.values(torch.from_numpy(found))
        text = path.read_text(encoding="utf-8")
        if self.facts.vocabulary:
            lines = [text] if self.facts.units == "characters" else [line for line in text.splitlines() if line.strip()]
            if not lines:
                raise UnusableInput("no text")
            return self.text(lines)
        rows = [row for row in csv.reader(io.StringIO(text)) if row]
        for number, row in enumerate(rows, 1):
            try:
                rows[number - 1] = [float(cell) for cell in row]  # type: ignore[misc]
            except ValueError:
                raise UnusableInput(f"row {number}: {', '.join(row)[:60]!r} are no numbers") from None
        if len({len(row) for row in rows}) != 1:
            raise UnusableInput("rows of different length, or none")
        return self.values(torch.tensor(rows))

    def _table(self, path: Path) -> Tensor:
        """Inputs of a table's rows: its columns are found by their names, and others are passed over."""
        assert self.columns is not None
        if path.suffix.lower() not in SUFFIXES:
            raise UnusableInput(f"{path}: allowed is a table, {', '.join(SUFFIXES)}")
        if path.stat().st_size > _LONGEST:
            raise UnusableInput(f"{path}: more than {_LONGEST} bytes")
        try:
            return self.values(torch.from_numpy(self.columns.encode(read_table(path), path.name)))
        except BadTable as error:
            raise UnusableInput(f"{path}: {error}") from None

    @cached_property
    def columns(self) -> Columns | None:
        """What the columns of a table are; None where the data were no table."""
        try:
            return Columns.from_json(self.facts.details) if '"columns"' in self.facts.details[:20] else None
        except ValueError as error:
            raise UnusableInput(str(error)) from None

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.facts.tokens, RESERVED)}

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        shape = (-1, *[1] * (len(self.facts.input_shape) - 1))
        mean, std = (
            torch.tensor(part, dtype=torch.float32).reshape(shape) for part in (self.facts.mean, self.facts.std)
        )
        return mean, std
