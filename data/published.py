"""Published image sets, read by torchvision from files under the data root."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.examples import Examples, Task
from data.fetch import ensure
from data.files import Files
from data.input_facts import SourceFacts
from data.vision import vision_datasets
from models.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class Published:
    """A data set that torchvision can read and, where there is a network, download.

    Attributes:
        loader: class of `torchvision.datasets`.
        folder: where its files lie, relative to the data root.
        files: the files, unpacked.
        address: where they come from; also asked whether there is a network.
        classes: number of classes.
        shape: channels, height, width of an image.
    """

    loader: str
    folder: str
    files: tuple[str, ...]
    address: str
    classes: int
    shape: tuple[int, int, int]
    images: bool = True
    owned: bool = False

    def inspect(self, files: Files) -> Task:
        """Return the number of classes and the shape of an image; the files need not be there."""
        return Task(self.classes, self.shape)

    def facts(self, files: Files) -> SourceFacts:
        """Classes as torchvision names them."""
        with _old_pickles():
            names = getattr(vision_datasets(), self.loader)(str(files.root), train=False).classes
        return SourceFacts(classes=tuple(map(str, names)))

    def read(self, files: Files) -> tuple[Examples, Examples]:
        """Return the train and test pixels.

        Raises:
            SettingError: (key data-root) a file is missing and cannot be downloaded, or is damaged.
        """
        root = files.root
        self._ensure(root)
        loader = getattr(vision_datasets(), self.loader)
        try:
            with _old_pickles():
                return _examples(loader(str(root), train=True)), _examples(loader(str(root), train=False))
        except (RuntimeError, ValueError, AssertionError, OSError, EOFError, KeyError, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise SettingError(
                "data-root", str(root), f"a folder whose {self.folder} has undamaged files of {self.loader} ({reason})"
            ) from error

    def _ensure(self, root: Path) -> None:
        def download(beside: str) -> None:
            # The class downloads both splits at once.
            getattr(vision_datasets(), self.loader)(beside, train=False, download=True)

        ensure(root, self.folder, self.files, self.address, download)


@contextmanager
def _old_pickles() -> Iterator[None]:
    """CIFAR's files were pickled by Python 2: NumPy 2.4 frowns at how they spell `align` in a dtype."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
        yield


def _examples(loaded: Any) -> Examples:
    """Take what torchvision holds in memory, [N, H, W] or [N, H, W, C], as bytes in [N, C, H, W]."""
    values = torch.as_tensor(np.asarray(loaded.data))
    values = values.unsqueeze(1) if values.dim() == 3 else values.permute(0, 3, 1, 2)
    labels = torch.as_tensor(np.asarray(loaded.targets), dtype=torch.int64)
    if len(values) != len(labels):
        raise ValueError(f"{len(values)} images but {len(labels)} labels")
    return Examples(values.contiguous(), labels)
