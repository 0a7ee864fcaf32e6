"""What the columns of a table are to a network: numbers, filled in where they are missing, and categories.

A number is one feature; where training examples lack it, a second one says that it is missing, and the first is the
mean. A category is a feature for each of its values; one that was not in the training examples is none of them, and
so is a missing one. What was decided is JSON in the facts of a run, so a device, `flotilla predict` and an exported
file read a row in the same way. Features are standardised like every other input.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import accumulate
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.table_file import BadTable, Table, check_kind, is_empty, is_number, numbers, texts

MOST_CATEGORIES = 1000  # of a column: an identifier is no category
MOST_FEATURES = 2**16


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column.

    Attributes:
        name: in the header.
        mean: what stands in for a missing number.
        missing: whether a feature says that the number is missing.
        categories: values, ascending; () for a number.
    """

    name: str
    mean: float = 0.0
    missing: bool = False
    categories: tuple[str, ...] = ()

    @property
    def features(self) -> list[str]:
        """Names of the features that it becomes."""
        if self.categories:
            return [f"{self.name} = {value}" for value in self.categories]
        return [self.name, f"{self.name} is missing"] if self.missing else [self.name]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What a table's columns are.

    Attributes:
        inputs: the columns that become features.
        targets: names of the columns that are to be predicted.
        mean, std: of the targets of a regression, by which they are standardised; () where targets are classes.
    """

    inputs: tuple[Column, ...]
    targets: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def features(self) -> list[str]:
        """Names of all features."""
        return [name for column in self.inputs for name in column.features]

    @property
    def numbers(self) -> dict[str, int]:
        """Where each column of numbers is among the features, by its name; the others are 0 or 1."""
        widths = [len(column.features) for column in self.inputs]
        starts = accumulate(widths, initial=0)
        return {one.name: start for one, start in zip(self.inputs, starts, strict=False) if not one.categories}

    def encode(self, table: Table, file: str) -> NDArray[np.float32]:
        """Features of a table's rows, float32 [N, features], not yet standardised.

        Args:
            table: with these columns, in any order; others are passed over.
            file: for errors.

        Raises:
            BadTable: a column is missing, or holds what it did not in training.
        """
        lacking = [column.name for column in self.inputs if column.name not in table.column_names]
        if lacking:
            more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
            raise BadTable(f"{file}: it has no column {', '.join(lacking[:5])}{more}")
        found = np.zeros((table.num_rows, len(self.features)), dtype=np.float32)
        at = 0
        for column in self.inputs:
            cells = table[column.name]
            if column.categories:
                place = {value: number for number, value in enumerate(column.categories)}
                for row, value in enumerate(texts(cells, f"{file}, column {column.name}")):
                    if value in place:
                        found[row, at + place[value]] = 1
            else:
                values = numbers(cells, f"{file}, column {column.name}")
                absent = np.isnan(values)
                found[:, at] = np.where(absent, column.mean, values)
                if column.missing:
                    found[:, at + 1] = absent
            at += len(column.features)
        return found

    def to_json(self) -> str:
        """Serialise; floats come back as the same bits."""
        return json.dumps({"columns": asdict(self)}, ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> Columns:
        """Read what `to_json` wrote.

        Raises:
            ValueError: something else, or more than anybody needs.
        """
        try:
            told: dict[str, Any] = json.loads(text)["columns"]
            found = Columns(
                inputs=tuple(
                    Column(
                        name=str(one["name"]),
                        mean=float(one["mean"]),
                        missing=bool(one["missing"]),
                        categories=tuple(map(str, one["categories"])),
                    )
                    for one in told["inputs"]
                ),
                targets=tuple(map(str, told["targets"])),
                mean=tuple(map(float, told["mean"])),
                std=tuple(map(float, told["std"])),
            )
            scales = (*found.mean, *found.std, *(column.mean for column in found.inputs))
            if not all(map(isfinite, scales)) or any(scale <= 0 for scale in found.std):
                raise ValueError("columns: not finite")
            if len(found.features) > MOST_FEATURES or not found.inputs or not found.targets:
                raise ValueError(f"columns: allowed are 1 to {MOST_FEATURES} features")
            return found
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"no columns ({error!r})") from None


@dataclass(frozen=True, kw_only=True)
class ColumnSums:
    """What is summed of a column, so that it can be decided over many devices.

    Attributes:
        rows: how many there are.
        missing: how many of them have no value.
        total, squares: of its numbers; 0 where it holds texts.
        counts: how often each of its texts occurs; {} where it holds numbers.
    """

    rows: int
    missing: int
    total: float = 0.0
    squares: float = 0.0
    counts: dict[str, int]

    def column(self, name: str) -> Column | None:
        """What the column is; None for one without any value.

        Raises:
            BadTable: numbers in some places and texts in others, or too many different texts.
        """
        known, said = self.rows - self.missing, sum(self.counts.values())
        if not known:
            return None
        if said not in (0, known):
            raise BadTable(f"column {name} holds numbers in some places and texts in others")
        if len(self.counts) > MOST_CATEGORIES:
            many = (
                f"{len(self.counts)} different texts, and {MOST_CATEGORIES} are allowed: `table-without` leaves it out"
            )
            raise BadTable(f"column {name} has {many}")
        if self.counts:
            return Column(name=name, categories=tuple(sorted(self.counts)))
        return Column(name=name, mean=self.total / known, missing=self.missing > 0)

    def moments(self) -> list[tuple[float, float]]:
        """Sum and sum of squares of every feature, over all rows, as they are once missing numbers are filled in."""
        if self.counts:
            return [(float(self.counts[value]),) * 2 for value in sorted(self.counts)]
        mean = self.total / (self.rows - self.missing)
        filled = (self.total + self.missing * mean, self.squares + self.missing * mean**2)
        return [filled, (float(self.missing),) * 2] if self.missing else [filled]


def sums_of(column: Any, where: str) -> ColumnSums:
    """Sum a column.

    Raises:
        BadTable: a value that is not finite, or no single one.
    """
    check_kind(column, where)
    if is_empty(column):
        return ColumnSums(rows=len(column), missing=len(column), counts={})
    if is_number(column):
        values = numbers(column, where)
        known = values[~np.isnan(values)]
        return ColumnSums(
            rows=len(values),
            missing=len(values) - len(known),
            total=float(known.sum()),
            squares=float(np.square(known).sum()),
            counts={},
        )
    counts: dict[str, int] = {}
    for value in texts(column, where):
        if value is not None:
            counts[value] = counts.get(value, 0) + 1
    return ColumnSums(rows=len(column), missing=len(column) - sum(counts.values()), counts=counts)
