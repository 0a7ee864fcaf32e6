"""Texts in one file, a text a row: CSV, TSV, JSON lines, or lines `label text`."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data.data_error import DataError
from data.listing import TEST, TRAIN, VALIDATION
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


def text_files(root: Path) -> tuple[list[Path], list[Path]]:
    """The file to train on and the one to test on; the only file there is is to train on.

    Raises:
        DataError: there is none, or more than one of a part.
    """
    layout = f"train.* and test.*, or one file, that end with {', '.join(SUFFIXES)}"
    try:
        there = sorted(file for file in root.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    except OSError as error:
        raise DataError(root, f"a folder with {layout} ({error.strerror})", "it has no folder of texts") from None
    train, test, tuning = (
        [file for file in there if file.stem.lower() in stems] for stems in (TRAIN, TEST, VALIDATION)
    )
    test = test or (tuning if train else [])
    if not train and not test and len(there) == 1:
        train = there
    if len(train) > 1 or len(test) > 1 or not train + test:
        few = ", ".join(file.name for file in there[:5]) or "none"
        raise DataError(root, f"a folder with {layout}; there are {few}", "its folder is not laid out as it must be")
    return train, test


def read_texts(file: Path, columns: Sequence[str], *, labelled: bool = True) -> list[LabelledText]:
    """Read the rows of a file.

    Args:
        file: its ending says how: `.csv` and `.tsv` have names in the first row, `.jsonl` an object a line, `.txt` a
            label, white space and the text.
        columns: names of text, label and, where there is one, client.
        labelled: whether texts have labels; without, `columns` has none either.

    Raises:
        DataError: a row cannot be read, or has no text or no label; names the row.
    """
    with _readable(file), file.open(encoding="utf-8-sig", newline="") as opened:
        rows = _ROWS[file.suffix.lower()](opened, columns)
        return [_checked(file, number, row, labelled=labelled) for number, row in rows]


def read_document(file: Path) -> LabelledText:
    """A file that is one text, without a label.

    Raises:
        DataError: it cannot be read, or is empty.
    """
    with _readable(file), file.open(encoding="utf-8-sig") as opened:
        text = opened.read()
    if not text.strip():
        raise DataError(file, "a file with a text", "a file of texts is empty")
    return LabelledText(text, "")


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """What cannot be read, as an error of whoever has the file.

    Raises:
        DataError: that, or the file is too large.
    """
    try:
        if file.stat().st_size > MOST_BYTES:
            raise DataError(file, f"a file of at most {MOST_BYTES} bytes", "a file of texts is too large")
        yield
    except (OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(file, f"a readable file of UTF-8 ({reason})", "a file of texts cannot be read") from error
    except _Unreadable as error:
        raise DataError(file, f"{error} (row {error.row})", "a row of a file of texts cannot be read") from None


class _Unreadable(ValueError):
    def __init__(self, row: int, allowed: str) -> None:
        self.row = row
        super().__init__(allowed)


def _checked(file: Path, number: int, cells: Sequence[str], *, labelled: bool) -> LabelledText:
    """A row with the names of its class and its client as they are everywhere."""
    text, label, client = (*cells, *("",) * (3 - len(cells))) if labelled else (cells[0], "", "".join(cells[1:]))
    row = LabelledText(text, name_of(label), name_of(client))
    if not row.text.strip() or (labelled and not row.label) or len(row.text) > _LONGEST:
        wanted = "a label and a text" if labelled else "a text"
        allowed = f"rows with {wanted} of at most {_LONGEST} characters (row {number})"
        lacking = "no text, no label or too much" if labelled else "no text or too much"
        raise DataError(file, allowed, f"a row of a file of texts has {lacking}")
    return row


def _table(opened: Iterator[str], columns: Sequence[str], delimiter: str) -> Iterator[tuple[int, Sequence[str]]]:
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
                yield reader.line_num, [row[place] for place in places]
    except csv.Error as error:
        raise _Unreadable(reader.line_num, f"rows that can be read ({error})") from None


def _csv(opened: Iterator[str], columns: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    return _table(opened, columns, ",")


def _tsv(opened: Iterator[str], columns: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    return _table(opened, columns, "\t")


def _objects(opened: Iterator[str], columns: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
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
        yield number, [str(cell) for cell in cells]


def _lines(opened: Iterator[str], columns: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    if len(columns) > 2:
        raise _Unreadable(1, "no client column: lines are label and text")
    for number, line in enumerate(opened, 1):
        if line.strip():
            label, *text = line.split(maxsplit=1)
            yield number, [text[0].strip() if text else "", label]


_ROWS = {".csv": _csv, ".tsv": _tsv, ".jsonl": _objects, ".txt": _lines}
