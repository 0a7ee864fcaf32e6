"""Tables as pyarrow reads them: CSV and Parquet, types found, missing values known by their usual spellings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# How a table says that it does not know: UCI's "?", and what spreadsheets and pandas write.
MISSING = ("", "?", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "-")
SUFFIXES = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".pq": "parquet"}
_DAY = 86_400  # seconds

Table = Any  # pyarrow.Table, which has no types


class BadTable(ValueError):
    """A table that cannot be used; the text names file, column and row."""


def read_table(file: Path) -> Table:
    """Read a table; the types of a CSV's columns are what all of their values are.

    Raises:
        BadTable: it cannot be read, has no rows, or two columns of one name.
    """
    from pyarrow import ArrowException, csv, parquet

    try:
        if SUFFIXES.get(file.suffix.lower()) == "parquet":
            table = parquet.read_table(file)
        else:
            options = csv.ConvertOptions(null_values=list(MISSING), strings_can_be_null=True)
            parse = csv.ParseOptions(delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
            # In one thread, errors say which row.
            read = csv.ReadOptions(use_threads=False)
            table = csv.read_csv(file, read_options=read, parse_options=parse, convert_options=options)
    except (ArrowException, OSError, ValueError) as error:
        raise BadTable(f"{file.name}: {' '.join(str(error).split())[:300]}") from None
    table = table.rename_columns([name.strip() for name in table.column_names])
    if len(set(table.column_names)) != table.num_columns:
        twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
        raise BadTable(f"{file.name}: two columns are called {', '.join(twice)[:100]}")
    if not table.num_rows:
        raise BadTable(f"{file.name}: it has no rows")
    return table


def is_number(column: Any) -> bool:
    """Whether a column holds numbers, truth values or dates; one without any value does not say."""
    from pyarrow import types

    kind = column.type
    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_decimal(kind)
        or types.is_boolean(kind)
        or types.is_date(kind)
        or types.is_timestamp(kind)
    )


def is_empty(column: Any) -> bool:
    """Whether a column has no value at all."""
    return bool(column.null_count == len(column))


def numbers(column: Any, where: str) -> NDArray[np.float64]:
    """A column's numbers, NaN where one is missing; dates in days since 1970.

    Args:
        column: of a table.
        where: file and column, for errors.

    Raises:
        BadTable: a value that is no number or not finite; names the row, counted from 1 below the header.
    """
    import pyarrow as pa
    from pyarrow import compute, types

    if types.is_date(column.type) or types.is_timestamp(column.type):
        seconds = compute.cast(compute.cast(column, pa.timestamp("s"), safe=False), pa.int64())
        return np.asarray(compute.cast(seconds, pa.float64()).to_numpy(), dtype=np.float64) / _DAY
    if not is_number(column):
        return _parsed(column.to_pylist(), where)
    found = np.asarray(compute.cast(column, pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    wrong = np.isinf(found) | (np.isnan(found) & ~np.asarray(compute.is_null(column)))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise BadTable(f"{where}, row {row + 1}: {found[row]} is not finite")
    return found


def _parsed(texts: list[Any], where: str) -> NDArray[np.float64]:
    found = np.full(len(texts), np.nan)
    for row, text in enumerate(texts):
        if text is None:
            continue
        try:
            found[row] = float(text)
        except (TypeError, ValueError):
            found[row] = np.inf
        if not np.isfinite(found[row]):
            raise BadTable(f"{where}, row {row + 1}: {str(text)[:40]!r} is no finite number")
    return found


def texts(column: Any) -> list[str | None]:
    """A column's values as texts, None where one is missing; whole numbers without a point."""
    return [None if value is None else _text(value) for value in column.to_pylist()]


def _text(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()
