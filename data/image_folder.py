"""The user's own pictures: a folder for every class, in one part or in train and test parts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from logging import WARNING, getLogger
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data.disk_cache import Key, array
from data.examples import Examples, Task
from data.files import Files
from data.input_facts import SourceFacts
from data.listing import FOLDER, Part, list_part, names, parts
from data.on_demand import OnDemand
from data.picture import DEEP, LARGE, MOST_PIXELS, header
from data.pil_items import PictureDecoder, shape_of
from models.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class _Pictures:
    """A part whose headers have been read.

    Attributes:
        part: without the pictures that are too large to decode.
        deep: whether one of them has more than 8 bits.
        key: of them.
    """

    part: Part
    deep: bool
    key: Key


class ImageFolder:
    """A folder of pictures per class; a class is what its folder is called, and numbers go by Python's `sorted`.

    Pictures become colour (three equal channels where they are grey) or grey and are scaled to `image-size` squared.
    Files that are no pictures, and pictures too large to decode, are passed over and counted. Pictures are decoded when
    somebody uses them, a client's own only, and once on a machine (`data.decoded`).
    """

    images = True
    owned = True
    local = True

    def provisional(self, files: Files) -> Task:
        """Two classes, and the shape that the settings say."""
        return Task(2, shape_of(files))

    def inspect(self, files: Files) -> Task:
        """Return the number of classes and the shape of a picture; lists folders, opens no picture.

        Raises:
            SettingError: (key data-root) no such folders, or fewer than 2 classes that are to be divided.
        """
        return Task(len(_classes(files)), shape_of(files))

    def facts(self, files: Files) -> SourceFacts:
        """Classes are named by their folders."""
        return SourceFacts(classes=_classes(files), fit=files.image_fit)

    def read(self, files: Files) -> tuple[Examples, Examples]:
        """Return the train and test pictures, decoded on demand.

        Raises:
            SettingError: (key data-root) as `inspect`; also a class without a training picture, where they are to be
                divided. A picture that cannot be read is an error when it is decoded.
        """
        classes = _classes(files)
        train, test = listed(files)
        for one in (train, test):
            if one.part.skipped:
                said = ", ".join(f"{count} {why}" for why, count in sorted(one.part.skipped.items()))
                getLogger("flwr").log(WARNING, "image-folder: files of %s passed over: %s", files.root, said)
        if not files.own:
            missing = set(classes) - {picture.label for picture in train.part.pictures}
            if missing:
                where = "a folder with at least one picture to train in every class's folder"
                raise SettingError("data-root", str(files.root), f"{where} ({', '.join(sorted(missing))} has none)")
        numbers = {name: number for number, name in enumerate(classes)}
        clients = {name: number for number, name in enumerate(sorted({one.client for one in train.part.pictures}))}
        return _examples(train, numbers, clients, files), _examples(test, numbers, clients, files)


@lru_cache(maxsize=4)
def listed(files: Files) -> tuple[_Pictures, _Pictures]:
    """Both parts, without the pictures that are too large to decode."""
    train, test, beside = parts(files.root)
    if train is None and test is None:
        raise SettingError("data-root", str(files.root), f"a folder with {_LAYOUT}")
    way = files.client_from
    first = Part() if train is None else list_part(train, way)
    if beside:
        first.skipped[f"folders beside train and test ({', '.join(beside[:5])})"] = len(beside)
    found = _with_headers(first, files, "train")
    if way == FOLDER and train is not None and test is not None and not set(names(train)) >= set(names(test)):
        way = ""  # training is by client, testing by class
    return found, _with_headers(Part() if test is None else list_part(test, way), files, "test")


def _with_headers(part: Part, files: Files, name: str) -> _Pictures:
    """Read the headers of a part's pictures, once on this machine."""
    paths = [picture.file for picture in part.pictures]
    key = Key.of(("pictures", str(files.root), name, shape_of(files), files.image_fit, files.client_from), paths)

    def read() -> NDArray[np.uint8]:
        return np.fromiter(map(header, paths), dtype=np.uint8, count=len(paths))

    said = array(key, "headers", read, len(paths)) if paths else read()
    kept = tuple(one for one, flags in zip(part.pictures, said.tolist(), strict=True) if not flags & LARGE)
    skipped = part.skipped.copy()
    if len(kept) < len(paths):
        skipped[f"of more than {MOST_PIXELS} pixels"] = len(paths) - len(kept)
    return _Pictures(part=replace(part, pictures=kept, skipped=skipped), deep=bool((said & DEEP).any()), key=key)


_LAYOUT = "train/<class>/*.png and test/<class>/*.png, or <class>/*.png"


def _classes(files: Files) -> tuple[str, ...]:
    train, test = listed(files)
    classes = tuple(sorted({*train.part.classes, *test.part.classes}))
    if len(classes) < 2 and not files.own:
        allowed = f"a folder with at least 2 classes (it has {len(classes)}): {_LAYOUT}"
        raise SettingError("data-root", str(files.root), allowed)
    return classes


def _examples(found: _Pictures, numbers: dict[str, int], clients: dict[str, int], files: Files) -> Examples:
    pictures = found.part.pictures
    labels = torch.tensor([numbers[one.label] for one in pictures], dtype=torch.int64)
    owners = torch.tensor([clients.get(one.client, -1) for one in pictures], dtype=torch.int64)
    told = files.client_from != ""
    decode = PictureDecoder(
        files, found.deep, lambda one: Path(one.file), lambda one: Path(one.file).relative_to(files.root)
    )
    return OnDemand(pictures, decode, labels, owners if told else None, key=found.key)
