"""The user's own pictures: a folder for every class, in one part or in train and test parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from logging import WARNING, getLogger

import torch
from torch import Tensor

from data.data_error import DataError
from data.examples import Examples, Task
from data.files import Files
from data.input_facts import SourceFacts
from data.listing import FOLDER, Part, Picture, list_part, names, parts
from data.on_demand import OnDemand
from data.picture import MOST_PIXELS, errors, read_picture, too_large
from models.errors import SettingError

_NONE = Part()


class ImageFolder:
    """A folder of pictures per class; a class is what its folder is called, and numbers go by Python's `sorted`.

    Pictures become colour (three equal channels where they are grey) or grey and are scaled to `image-size` squared.
    Files that are no pictures, and pictures too large to decode, are passed over and counted. Pictures are decoded when
    somebody uses them: a client decodes its own only.
    """

    images = True
    owned = True
    local = True

    def provisional(self, files: Files) -> Task:
        """Two classes, and the shape that the settings say."""
        return Task(2, _shape(files))

    def inspect(self, files: Files) -> Task:
        """Return the number of classes and the shape of a picture; lists folders, opens no picture.

        Raises:
            SettingError: (key data-root) no such folders, or fewer than 2 classes that are to be divided.
        """
        return Task(len(_classes(files)), _shape(files))

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
        train, test = _listed(files)
        for part in (train, test):
            if part.skipped:
                said = ", ".join(f"{count} {why}" for why, count in sorted(part.skipped.items()))
                getLogger("flwr").log(WARNING, "image-folder: files of %s passed over: %s", files.root, said)
        if not files.own:
            missing = set(classes) - {picture.label for picture in train.pictures}
            if missing:
                where = "a folder with at least one picture to train in every class's folder"
                raise SettingError("data-root", str(files.root), f"{where} ({', '.join(sorted(missing))} has none)")
        numbers = {name: number for number, name in enumerate(classes)}
        clients = {name: number for number, name in enumerate(sorted({one.client for one in train.pictures}))}
        found = [_examples(part.pictures, numbers, clients, files) for part in (train, test)]
        return found[0], found[1]


def _shape(files: Files) -> tuple[int, int, int]:
    return files.image_channels, files.image_size, files.image_size


@lru_cache(maxsize=4)
def _listed(files: Files) -> tuple[Part, Part]:
    """Both parts, without the pictures that are too large to decode."""
    train, test = parts(files.root)
    if train is None and test is None:
        raise SettingError("data-root", str(files.root), f"a folder with {_LAYOUT}")
    way = files.client_from
    found = _NONE if train is None else _small_enough(list_part(train, way))
    if way == FOLDER and train is not None and test is not None and not set(names(train)) >= set(names(test)):
        way = ""  # training is by client, testing by class
    return found, _NONE if test is None else _small_enough(list_part(test, way))


def _small_enough(part: Part) -> Part:
    kept = tuple(picture for picture in part.pictures if not too_large(picture.file))
    skipped = part.skipped.copy()
    if len(kept) < len(part.pictures):
        skipped[f"of more than {MOST_PIXELS} pixels"] = len(part.pictures) - len(kept)
    return replace(part, pictures=kept, skipped=skipped)


_LAYOUT = "train/<class>/*.png and test/<class>/*.png, or <class>/*.png"


def _classes(files: Files) -> tuple[str, ...]:
    train, test = _listed(files)
    classes = tuple(sorted({*train.classes, *test.classes}))
    if len(classes) < 2 and not files.own:
        allowed = f"a folder with at least 2 classes (it has {len(classes)}): {_LAYOUT}"
        raise SettingError("data-root", str(files.root), allowed)
    return classes


def _examples(pictures: Sequence[Picture], numbers: dict[str, int], clients: dict[str, int], files: Files) -> Examples:
    labels = torch.tensor([numbers[one.label] for one in pictures], dtype=torch.int64)
    owners = torch.tensor([clients.get(one.client, -1) for one in pictures], dtype=torch.int64)
    told = files.client_from != ""
    return OnDemand(pictures, _Decoder(files), labels, owners if told else None)


class _Decoder:
    """Decodes pictures of a folder, uint8 or float32 in the same unit."""

    def __init__(self, files: Files) -> None:
        self.shape, self._fit, self._root = _shape(files), files.image_fit, files.root

    def __call__(self, kept: Sequence[Picture]) -> Tensor:
        values = torch.empty(len(kept), *self.shape, dtype=torch.uint8)
        for row, picture in enumerate(kept):
            try:
                found = torch.from_numpy(read_picture(picture.file, self.shape, self._fit))
            except errors() as error:
                where = picture.file.relative_to(self._root)
                allowed = f"a folder of readable images ({where}: {' '.join(str(error).split())})"
                raise DataError(self._root, allowed, "a picture cannot be read; its log says which") from error
            if not found.isfinite().all():
                where = picture.file.relative_to(self._root)
                allowed = f"a folder of pictures with finite values ({where} has one that is not)"
                raise DataError(self._root, allowed, "a value is not finite; its log says which")
            if found.is_floating_point() and not values.is_floating_point():
                values = values.float()  # pictures of more than 8 bits among them
            values[row] = found
        return values
