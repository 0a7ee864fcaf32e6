"""CSV as people write it: whatever separates its columns, a point or a comma in numbers, names in the first row."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection
from logging import WARNING, getLogger
from pathlib import Path
from typing import Any

from data.names import plain

# How a table says that it does not know: UCI's "?", and what spreadsheets and pandas write.
MISSING = ("", "?", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "-")
_SEPARATORS = ",;\t|"  # of as many of each the first
_QUOTED = re.compile(r'"[^"]*"')
_NUMBER, _COMMA_NUMBER = r"^\s*[+-]?\d+(\.\d+)?\s*$", r"^\s*[+-]?\d+(,\d+)?\s*$"


def read_csv(file: Path, names: Collection[str]) -> Any:
    """Read a table, a pyarrow.Table, with its columns called as in the file.

    Args:
        file: .tsv is separated by tabs; of others the first row says by what.
        names: see `data.table_file.read_table`.

    Raises:
        ArrowException, OSError, ValueError: it cannot be read; says where.
    """
    from pyarrow import string, types

    header, separator = _header(file)
    called = [plain(name) for name in header]
    last = next((name for name in reversed(called) if name), "")
    as_texts = {
        raw for raw, name in zip(header, called, strict=True) if name in names or ("" in names and name == last)
    }
    table = _read(file, separator, as_texts)
    for name, column in zip(table.column_names, table.columns, strict=True):
        if types.is_binary(column.type):
            row = next(
                row for row, value in enumerate(column.to_pylist(), 1) if value is not None and not _is_text(value)
            )
            raise ValueError(f"column {plain(name)}, row {row}: it is not UTF-8: save the file in that encoding")

    def texts(read: Any) -> list[tuple[str, Any]]:
        columns = zip(read.column_names, read.columns, strict=True)
        return [(plain(name), column) for name, column in columns if column.type == string() and name not in as_texts]

    with_comma = [name for name, column in texts(table) if _all(column, _COMMA_NUMBER) and not _all(column, _NUMBER)]
    if separator != "," and with_comma:
        floats = [place for place, column in enumerate(table.columns) if types.is_floating(column.type)]
        table = _read(file, separator, as_texts, point=",")
        if with_point := [place for place in floats if table.columns[place].type == string()]:
            other = plain(table.column_names[with_point[0]])
            raise ValueError(
                f"numbers have a comma in column {with_comma[0]} and a point in column {other}: write them alike"
            )
    for name, column in texts(table):
        _say_mixed(file, name, column)
    return table


def _header(file: Path) -> tuple[list[str], str]:
    """The first row, and what stands between its cells."""
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as opened:
            first = next((line for line in opened if line.strip()), "")
            plainly = _QUOTED.sub("", first)
            separator = "\t" if file.suffix.lower() == ".tsv" else max(_SEPARATORS, key=plainly.count)
            opened.seek(0)
            header = next((row for row in csv.reader(opened, delimiter=separator) if row), [])
        "".join(header).encode()
    except UnicodeEncodeError:
        raise ValueError("it is not UTF-8: save the file in that encoding") from None
    except csv.Error as error:
        raise ValueError(f"row 1: {error}") from None
    if not header:
        raise ValueError("it has no rows")
    if all(_is_number(cell) for cell in header):
        raise ValueError(
            f"its first row is of numbers ({', '.join(header)[:40]}), and names of columns are wanted there"
        )
    return header, separator


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", "."))
    except ValueError:
        return cell.strip() in MISSING and bool(cell.strip())
    return True


def _read(file: Path, separator: str, as_texts: Collection[str], point: str = ".") -> Any:
    from pyarrow import csv as arrow
    from pyarrow import string

    options = arrow.ConvertOptions(
        null_values=[space + said + more for said in MISSING for space in ("", " ") for more in ("", " ")],
        strings_can_be_null=True,
        column_types=dict.fromkeys(as_texts, string()),
        decimal_point=point,
    )
    parse = arrow.ParseOptions(delimiter=separator, newlines_in_values=True)
    # In one thread, errors say which row.
    read = arrow.ReadOptions(use_threads=False)
    return arrow.read_csv(file, read_options=read, parse_options=parse, convert_options=options)


def _matching(column: Any, pattern: str) -> tuple[int, int]:
    """How many of a column's texts are so, and the first row, counted from 0, that is not; -1 if all are."""
    from pyarrow import compute

    are = compute.match_substring_regex(column, pattern)
    return int(compute.sum(are).as_py() or 0), int(compute.index(are, False).as_py())


def _all(column: Any, pattern: str) -> bool:
    found, odd = _matching(column, pattern)
    return found > 0 > odd


def _say_mixed(file: Path, name: str, column: Any) -> None:
    """Say it where most of a column's values are numbers, but not all, or not as they are read: they are categories."""
    found, odd = max((_matching(column, one) for one in (_NUMBER, _COMMA_NUMBER)), key=lambda one: one[0])
    known = len(column) - column.null_count
    if 2 * found > known:
        row = odd if odd >= 0 else column.is_valid().to_pylist().index(True)
        but = "but" if odd >= 0 else "but not as they are read:"
        said = "%s, column %s: %d of %d values are numbers, %s row %d has %r: all are taken as categories"
        getLogger("flwr").log(WARNING, said, file.name, name, found, known, but, row + 1, column[row].as_py()[:40])
