"""Tables as pyarrow reads them: CSV and Parquet, types found, missing values known by their usual spellings."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.csv_file import MISSING, read_csv
from data.names import name_of, plain

SUFFIXES = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".pq": "parquet"}
_DAY = 86_400  # seconds
_MICROSECONDS = 1_000_000 * _DAY  # of a day
_NAMELESS = re.compile(r"\s*|__index_level_\d+__")  # what pandas calls its index in CSV and in Parquet
_GREATEST = float(np.finfo(np.float32).max)  # inputs are float32

Table = Any  # pyarrow.Table, which has no types


class BadTable(ValueError):
    """A table that cannot be used; the text names file, column and row."""


def read_table(file: Path, names: Collection[str] = ()) -> Table:
    """Read a table; the types of a CSV's columns are what all of their values are. Columns without a name are left out.

    Args:
        file: its ending says what it is.
        names: columns of a CSV that hold names, of classes or clients: they are texts whatever they look like, so that
            every file says the same of them. "" is the last column.

    Raises:
        BadTable: it cannot be read, has no rows, or two columns of one name.
    """
    from pyarrow import ArrowException, parquet

    try:
        table = parquet.read_table(file) if SUFFIXES.get(file.suffix.lower()) == "parquet" else read_csv(file, names)
    except BadTable:
        raise
    except (ArrowException, OSError, ValueError) as error:
        raise BadTable(f"{file.name}: {' '.join(str(error).split())[:300]}") from None
    table = table.select([place for place, name in enumerate(table.column_names) if not _NAMELESS.fullmatch(name)])
    table = table.rename_columns([plain(name) for name in table.column_names])
    if len(set(table.column_names)) != table.num_columns:
        twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
        raise BadTable(f"{file.name}: two columns are called {', '.join(twice)[:100]}")
    if not table.num_rows or not table.num_columns:
        raise BadTable(f"{file.name}: it has no {'columns with a name' if table.num_rows else 'rows'}")
    return table


def is_number(column: Any) -> bool:
    """Whether a column holds numbers, truth values, dates or times; one without any value does not say."""
    return _is_number(column.type)


def _is_number(kind: Any) -> bool:
    from pyarrow import types

    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_decimal(kind)
        or types.is_boolean(kind)
        or (types.is_temporal(kind) and not types.is_interval(kind))
    )


def is_empty(column: Any) -> bool:
    """Whether a column has no value at all."""
    return bool(column.null_count == len(column))


def check_kind(column: Any, where: str) -> None:
    """See that a column holds single values.

    Raises:
        BadTable: it holds lists, records or bytes.
    """
    from pyarrow import types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    if not (text or types.is_null(kind) or _is_number(kind)):
        raise BadTable(
            f"{where}: it holds {kind}, and a number or a text a row is wanted (`table-without` leaves it out)"
        )


def numbers(column: Any, where: str) -> NDArray[np.float64]:
    """A column's numbers, NaN where one is missing; dates in days since 1970, times and durations in days.

    Args:
        column: of a table.
        where: file and column, for errors.

    Raises:
        BadTable: a value that is no number, not finite, or too large for an input; names the row, counted from 1 below
            the header.
    """
    import pyarrow as pa
    from pyarrow import compute, types

    kind = column.type
    if types.is_date(kind) or types.is_timestamp(kind):
        seconds = compute.cast(compute.cast(column, pa.timestamp("s"), safe=False), pa.int64())
        return np.asarray(compute.cast(seconds, pa.float64()).to_numpy(), dtype=np.float64) / _DAY
    if types.is_time(kind) or types.is_duration(kind):
        fine = pa.duration("us") if types.is_duration(kind) else pa.time64("us")
        found = compute.cast(compute.cast(compute.cast(column, fine, safe=False), pa.int64()), pa.float64())
        return np.asarray(found.to_numpy(), dtype=np.float64) / _MICROSECONDS
    if not is_number(column):
        return _parsed(column.to_pylist(), where)
    found = np.asarray(compute.cast(column, pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    wrong = (np.abs(found) > _GREATEST) | (np.isnan(found) & ~np.asarray(compute.is_null(column)))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        what = "larger than a 32-bit float" if np.isfinite(found[row]) else "not finite"
        raise BadTable(f"{where}, row {row + 1}: {found[row]} is {what}")
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
        if not np.abs(found[row]) <= _GREATEST:
            raise BadTable(f"{where}, row {row + 1}: {str(text)[:40]!r} is no finite number")
    return found


def texts(column: Any, where: str) -> list[str | None]:
    """A column's values as names (see `data.names`), None where one is missing.

    Raises:
        BadTable: they are no single values, or a number that is not finite; names the row.
    """
    check_kind(column, where)
    found = list[str | None]()
    for row, value in enumerate(column.to_pylist(), 1):
        try:
            name = "" if value is None else name_of(value)
            found.append(None if name in MISSING else name)
        except ValueError as error:
            raise BadTable(f"{where}, row {row}: {error}") from None
    return found
