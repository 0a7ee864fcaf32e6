"""The user's own images: `data-root/train/<class>/*.png` and `data-root/test/<class>/*.png`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.examples import Examples, Task
from data.files import Files
from data.input_facts import SourceFacts
from models.errors import SettingError

# Anything else in the folders (Thumbs.db, .DS_Store, notes) is not an image and is passed over.
_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class ImageFolder:
    """A folder of images per class; classes are numbered by name, in the order of Python's `sorted`.

    Images become colour (three equal channels where they are grey) and are resized to `image-size` squared with
    bilinear filtering; the aspect ratio is not kept.
    """

    images = True
    owned = False
    local = True

    def provisional(self, files: Files) -> Task:
        """Two classes, and the shape that the settings say."""
        return Task(2, (3, files.image_size, files.image_size))

    def inspect(self, files: Files) -> Task:
        """Return the number of classes and (3, image_size, image_size); lists folders, opens no image.

        Raises:
            SettingError: (key data-root) no such folders, fewer than 2 classes, other classes to test than to train.
        """
        return Task(len(_classes(files.root)), (3, files.image_size, files.image_size))

    def facts(self, files: Files) -> SourceFacts:
        """Classes are named by their folders."""
        return SourceFacts(classes=tuple(_classes(files.root)))

    def read(self, files: Files) -> tuple[Examples, Examples]:
        """Return the train and test pixels.

        Raises:
            SettingError: (key data-root) as `inspect`; also an image that cannot be read, a class without a training
                image, no test image at all.
        """
        root = files.root
        classes = _classes(root)
        train, test = (_read(root / part, classes, files.image_size) for part in ("train", "test"))
        for number, name in enumerate(classes):
            if not bool((train.labels == number).any()):
                raise SettingError("data-root", str(root), f"a folder with at least one image in train/{name}")
        if not len(test):
            raise SettingError("data-root", str(root), "a folder with at least one image in test")
        return train, test


def _classes(root: Path) -> list[str]:
    found = {}
    for part in ("train", "test"):
        folder = root / part
        if not folder.is_dir():
            raise SettingError("data-root", str(root), "a folder with train/<class>/*.png and test/<class>/*.png")
        found[part] = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")
    if len(found["train"]) < 2:
        raise SettingError(
            "data-root", str(root), f"a folder with at least 2 classes in train (it has {len(found['train'])})"
        )
    differing = sorted(set(found["train"]) ^ set(found["test"]))
    if differing:
        raise SettingError(
            "data-root",
            str(root),
            f"a folder with the same classes in train and test (only one of them has {', '.join(differing)})",
        )
    return found["train"]


def _read(folder: Path, classes: list[str], image_size: int) -> Examples:
    files = [
        (file, number)
        for number, name in enumerate(classes)
        for file in sorted((folder / name).iterdir())
        if file.suffix.lower() in _SUFFIXES and not file.name.startswith(".")
    ]
    values = torch.empty(len(files), 3, image_size, image_size, dtype=torch.uint8)
    for row, (file, _) in enumerate(files):
        values[row] = _image(file, folder.parent, image_size)
    return Examples(values, torch.tensor([number for _, number in files], dtype=torch.int64))


def _image(file: Path, root: Path, image_size: int) -> Tensor:
    """Return one image, uint8 [3, image_size, image_size]."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            # Pillow warns about a transparent palette that is turned into colour in one step.
            opaque = image.convert("RGBA") if "transparency" in image.info else image
            square = opaque.convert("RGB").resize((image_size, image_size), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SettingError(
            "data-root", str(root), f"a folder of readable images ({file.relative_to(root)}: {error})"
        ) from error
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)
