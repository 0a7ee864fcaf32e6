"""Which rows of which files a table's training and test part are, and what is to be predicted in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from data.columns import Columns
from data.files import Files
from data.listing import VALIDATION
from data.matching import matching
from data.names import plain
from data.table_file import SUFFIXES, BadTable, Table, read_table
from models.losses import CLASSIFICATION

_TEST = re.compile(r"test(s|ing|set|data)?(?![a-z])", re.I)  # "test-1.csv", and no place such as "testaccio.csv"


@dataclass(frozen=True)
class Part:
    """Rows of some files, in the order of their names.

    Attributes:
        tables: by name of the file below the data root.
        targets: the columns that are to be predicted, the same in all of them.
    """

    tables: tuple[tuple[str, Table], ...]
    targets: tuple[str, ...]

    def __len__(self) -> int:
        return sum(table.num_rows for _, table in self.tables)

    def column(self, table: Table, file: str, name: str, key: str = "") -> Table:
        """A column of one of the tables.

        Args:
            table, file: which.
            name: of the column.
            key: of the configuration that asks for it.

        Raises:
            BadTable: it has no such column.
        """
        if name not in table.column_names:
            has = ", ".join(table.column_names)[:200]
            raise BadTable(f"{file}: it has no column {name}{key and f' (`{key}`)'}; it has {has}")
        return table[name]


def parts_of(format: str, place: str, files: Files) -> tuple[Part, Part]:
    """The training and the test part; the files of the latter are called so, or, where there are none, "validation".

    What is to be predicted is what the run's facts or the settings say, else the last column of the first file.

    Args:
        format: "csv" or "parquet".
        place: a file, a pattern or a folder, below the data root.
        files: the settings.

    Raises:
        BadTable: no such files, or one that cannot be read; several targets of a classification.
    """
    found = matching(files.root, place, [suffix for suffix, of in SUFFIXES.items() if of == format])
    targets, read = _told(files), list[tuple[str, Table]]()
    for file in found:
        names = {plain(files.table_clients)} - {""}
        if files.task == CLASSIFICATION:
            names |= set(targets) or {""}
        table = _read(file, file.stat().st_mtime_ns, frozenset(names))
        targets = targets or (table.column_names[-1],)
        read.append((str(file.relative_to(files.root)), table))
    if files.task == CLASSIFICATION and len(targets) > 1:
        raise BadTable(f"{len(targets)} columns are to be predicted; classification has one (`task`)")
    tested = [pair for pair in read if _TEST.match(Path(pair[0]).name)]
    tuning = [pair for pair in read if Path(pair[0]).stem.lower() in VALIDATION] if len(read) > 1 else []
    trained = [pair for pair in read if pair not in tested and pair not in tuning]
    return _part(trained, targets), _part(tested or tuning, targets)


def _part(tables: Sequence[tuple[str, Table]], targets: tuple[str, ...]) -> Part:
    part = Part(tuple(tables), targets)
    for file, table in tables:
        for name in targets:
            part.column(table, file, name, "table-target")
    return part


def _told(files: Files) -> tuple[str, ...]:
    if files.facts is not None:
        return Columns.from_json(files.facts.details).targets
    return tuple(sorted({plain(name) for name in files.table_target.split(",")} - {""}))


@lru_cache(maxsize=64)
def _read(file: Path, changed: int, names: frozenset[str]) -> Table:
    """A table, read once as long as its file does not change."""
    del changed
    return read_table(file, names)
