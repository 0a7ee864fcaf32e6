"""From settings to a data set: read once per process, shared by everybody in it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from data.examples import DataSet
from data.settings import DataSettings
from data.sources import SOURCES


def load(settings: DataSettings) -> DataSet:
    """Return the data set that `settings` names; reads it on the first call.

    Settings that differ only in how the data are divided get the same object.

    Raises:
        SettingError: (key data-root) files are missing and cannot be downloaded, or are damaged.
    """
    return _load(settings.dataset, settings.data_root, settings.image_size)


def inspect(settings: DataSettings) -> tuple[int, tuple[int, int, int]]:
    """Return what a network has to know: the number of classes and an input's (channels, height, width).

    Reads no examples, so the files of a published set need not be there.

    Raises:
        SettingError: (key data-root) the folder of an image folder is missing or not laid out as it must be.
    """
    return SOURCES[settings.dataset].inspect(Path(settings.data_root), settings.image_size)


# Two: one in use and one for a comparison; more would only hold memory.
@lru_cache(maxsize=2)
def _load(name: str, root: str, image_size: int) -> DataSet:
    source = SOURCES[name]
    train, test = source.read(Path(root), image_size)
    return DataSet(name, source.inspect(Path(root), image_size)[0], train, test)
