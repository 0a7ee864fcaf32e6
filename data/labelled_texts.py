"""Labelled texts in one file, a text a row: CSV, TSV, JSON lines, or lines `label text`."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.data_error import DataError
from data.names import name_of, plain

SUFFIXES = (".csv", ".tsv", ".jsonl", ".txt")
MOST_BYTES = 2**30  # of a file
_LONGEST = 2**20  # characters of a text
# The limit is the process's, and readers of several threads may be open: it is set once, and what is read is measured.
csv.field_size_limit(max(_LONGEST, csv.field_size_limit()))


@dataclass(frozen=True, slots=True)
class LabelledText:
    """One row; `client` is "" where nothing says whose it is."""

    text: str
    label: str
    client: str = ""


def read_texts(file: Path, columns: Sequence[str]) -> list[LabelledText]:
    """Read the rows of a file.

    Args:
        file: its ending says how: `.csv` and `.tsv` have names in the first row, `.jsonl` an object a line, `.txt` a
            label, white space and the text.
        columns: names of text, label and, where there is one, client.

    Raises:
        DataError: a row cannot be read, or has no text or no label; names the row.
    """
    try:
        if file.stat().st_size > MOST_BYTES:
            raise DataError(file, f"a file of at most {MOST_BYTES} bytes", "a file of texts is too large")
        with file.open(encoding="utf-8-sig", newline="") as opened:
            rows = _ROWS[file.suffix.lower()](opened, columns)
            return [_checked(file, number, row) for number, row in rows]
    except (OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(file, f"a readable file of UTF-8 ({reason})", "a file of texts cannot be read") from error
    except _Unreadable as error:
        raise DataError(file, f"{error} (row {error.row})", "a row of a file of texts cannot be read") from None


class _Unreadable(ValueError):
    def __init__(self, row: int, allowed: str) -> None:
        self.row = row
        super().__init__(allowed)


def _checked(file: Path, number: int, row: LabelledText) -> LabelledText:
    """A row with the names of its class and its client as they are everywhere."""
    row = LabelledText(row.text, name_of(row.label), name_of(row.client))
    if not row.text.strip() or not row.label or len(row.text) > _LONGEST:
        allowed = f"rows with a label and a text of at most {_LONGEST} characters (row {number})"
        raise DataError(file, allowed, "a row of a file of texts has no text, no label or too much")
    return row


def _table(opened: Iterator[str], columns: Sequence[str], delimiter: str) -> Iterator[tuple[int, LabelledText]]:
    reader = csv.reader(opened, delimiter=delimiter)
    try:
        header = [plain(name) for name in next(reader, [])]
        missing = [name for name in columns if name not in header]
        if missing:
            wanted = f"a first row with the columns {', '.join(columns)} (`text-columns`)"
            raise _Unreadable(1, f"{wanted}; {', '.join(missing)} is not there, but {', '.join(header)[:200]}")
        places = [header.index(name) for name in columns]
        for row in reader:
            if row and len(row) != len(header):
                raise _Unreadable(reader.line_num, f"rows of {len(header)} cells, as the first; it has {len(row)}")
            if row:
                yield reader.line_num, LabelledText(*(row[place] for place in places))
    except csv.Error as error:
        raise _Unreadable(reader.line_num, f"rows that can be read ({error})") from None


def _csv(opened: Iterator[str], columns: Sequence[str]) -> Iterator[tuple[int, LabelledText]]:
    return _table(opened, columns, ",")


def _tsv(opened: Iterator[str], columns: Sequence[str]) -> Iterator[tuple[int, LabelledText]]:
    return _table(opened, columns, "\t")


def _objects(opened: Iterator[str], columns: Sequence[str]) -> Iterator[tuple[int, LabelledText]]:
    for number, line in enumerate(opened, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            cells = [row[name] for name in columns]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise _Unreadable(number, f"an object with {', '.join(columns)} in every line") from None
        if not all(isinstance(cell, str | int) for cell in cells):
            raise _Unreadable(number, "texts and whole numbers")
        yield number, LabelledText(*map(str, cells))


def _lines(opened: Iterator[str], columns: Sequence[str]) -> Iterator[tuple[int, LabelledText]]:
    if len(columns) > 2:
        raise _Unreadable(1, "no client column: lines are label and text")
    for number, line in enumerate(opened, 1):
        if line.strip():
            label, *text = line.split(maxsplit=1)
            yield number, LabelledText(text[0].strip() if text else "", label)


_ROWS = {".csv": _csv, ".tsv": _tsv, ".jsonl": _objects, ".txt": _lines}
