"""Files that a data set's name speaks of: below the data root and nowhere else, whoever names them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data.data_error import DataError
from data.table_file import BadTable


def matching(root: Path, place: str, suffixes: Sequence[str]) -> list[Path]:
    """The files of a place, by name.

    Args:
        root: the data root.
        place: a file, a pattern such as "sites/*.csv", or a folder; below the root.
        suffixes: of the files that count in a folder.

    Raises:
        BadTable: it leads out of the root, or there is no such file.
    """
    if not place or Path(place).is_absolute() or ".." in Path(place).parts:
        raise BadTable(f"{place!r}: allowed is a file, a pattern or a folder below data-root")
    pattern = "/".join([place, "*"]) if (root / place).is_dir() else place
    found = [file for file in sorted(root.glob(pattern)) if file.is_file() and not file.name.startswith(".")]
    found = [file for file in found if file.suffix.lower() in suffixes]
    if not found:
        raise BadTable(f"{place!r}: no file that ends with {' or '.join(suffixes)} there")
    inside = root.resolve()
    for file in found:
        if not file.resolve().is_relative_to(inside):
            raise BadTable(f"{file.name} is a link that leads out of data-root")
    return found


@contextmanager
def as_data_error(root: Path) -> Iterator[None]:
    """What is wrong with a table, as an error of whoever has it."""
    try:
        yield
    except BadTable as error:
        told = "a table cannot be used; its log says why"
        raise DataError(root, f"tables that can be used: {error}", told) from None


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Different names, ascending; by value where all are numbers."""
    different = sorted(set(names))
    try:
        return tuple(sorted(different, key=float))
    except ValueError:
        return tuple(different)
