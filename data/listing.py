"""Which pictures lie in a folder, of which class and of whom, without opening one."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data.names import plain
from data.picture import suffixes

TRAIN, TEST = ("train", "training"), ("test", "testing")
VALIDATION = ("val", "valid", "validation", "dev")
FOLDER = "folder"
CLIENT = "{client}"
_DEEPEST = 32  # folders inside each other


@dataclass(frozen=True, slots=True)
class Picture:
    """One file.

    Attributes:
        file: where it is; a text, because a hundred thousand `Path`s take a second to make.
        label: name of its class.
        client: who it is from; "" where nothing says.
    """

    file: str
    label: str
    client: str = ""


@dataclass(frozen=True, kw_only=True)
class Part:
    """The pictures of a folder, in the order of classes, clients and files.

    Attributes:
        pictures: to be read.
        classes: names of the folders, with pictures or without, sorted.
        skipped: why files were passed over → how many.
    """

    pictures: tuple[Picture, ...] = ()
    classes: tuple[str, ...] = ()
    skipped: Counter[str] = field(default_factory=Counter)


def parts(root: Path) -> tuple[Path | None, Path | None, list[str]]:
    """The folders to train and to test on: `train` and `test`, or `val` where there is no test; else all to train on.

    Whether letters are capitals makes no difference. Where there are both a test and a validation part, nothing reads
    the latter: it is for tuning. Third, the names of folders beside the parts, which nothing reads either.
    """
    found = _folders(root) if root.is_dir() else []
    there = {folder.name.lower(): folder for folder in found}  # of two the one without capitals
    train, test, validation = (
        next((there[name] for name in names if name in there), None) for names in (TRAIN, TEST, VALIDATION)
    )
    if train is None and test is None:
        return (root, None, []) if root.is_dir() else (None, None, [])
    beside = [folder.name for folder in found if folder not in (train, test, validation)]
    return train, test or (validation if train is not None else None), beside


def list_part(folder: Path, client_from: str) -> Part:
    """List the pictures below a folder; hidden files and folders count as none.

    Args:
        folder: holds a folder for every class, with pictures at any depth.
        client_from: "" says nothing of clients; "folder": every client has a folder with a folder for every class;
            else a pattern of file names with `{client}` in it, and `*`.
    """
    skipped: Counter[str] = Counter()
    pattern = client_pattern(client_from)
    people = _folders(folder) if client_from == FOLDER else [folder]
    found, classes = list[Picture](), set[str]()
    for place in {folder, *people}:
        if loose := sum(1 for _ in _files(place, Counter(), depth=_DEEPEST)):
            skipped["in no class's folder"] += loose
    for person in people:
        for kind in _folders(person):
            label = plain(kind.name)
            classes.add(label)
            for file in _files(kind, skipped):
                client = plain(person.name) if client_from == FOLDER else ""
                if pattern is not None:
                    match = pattern.fullmatch(os.path.basename(file))
                    if match is None:
                        skipped["whose names say no client"] += 1
                        continue
                    client = plain(match["client"])
                found.append(Picture(file, label, client))
    order = sorted(found, key=lambda one: (one.label, one.client, one.file))
    return Part(pictures=tuple(order), classes=tuple(sorted(classes)), skipped=skipped)


def names(folder: Path) -> list[str]:
    """Names of the folders in a folder."""
    return [plain(entry.name) for entry in _folders(folder)]


def client_pattern(client_from: str) -> re.Pattern[str] | None:
    """What a file's name must be to say whose it is; None where names say nothing."""
    if client_from in ("", FOLDER):
        return None
    before, _, after = client_from.partition(CLIENT)
    each = (".*".join(map(re.escape, part.split("*"))) for part in (before, after))
    return re.compile(f"{next(each)}(?P<client>.+?){next(each)}", re.DOTALL)


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(
    folder: Path | str, skipped: Counter[str], depth: int = 0, above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[str]:
    """Regular files with an ending of pictures, at any depth; everything else is counted."""
    known, told = suffixes(), os.stat(folder)
    if (told.st_dev, told.st_ino) in above or depth > _DEEPEST:
        skipped["folders that lead back to where they are, or too deep"] += 1
        return
    above |= {(told.st_dev, told.st_ino)}
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _files(entry.path, skipped, depth + 1, above)
            elif not entry.is_file():  # a named pipe, a socket, a link to nowhere: opening one may block for ever
                skipped["that are no regular files"] += 1
            elif os.path.splitext(entry.name)[1].lower() not in known:
                skipped["that are no pictures by their names"] += 1
            else:
                yield entry.path
