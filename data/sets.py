"""From settings to a data set: read once per process, shared by everybody in it."""

from __future__ import annotations

from functools import lru_cache

from data import synthetic_groups
from data.examples import DataSet, Task
from data.files import Files
from data.input_facts import InputFacts, SourceFacts
from data.settings import DataSettings
from data.sources import SOURCES


def load(settings: DataSettings) -> DataSet:
    """Return the data set that `settings` names; reads it on the first call.

    Settings that differ only in how the data are divided get the same object.

    Raises:
        SettingError: (key data-root) files are missing and cannot be downloaded, or are damaged; (keys vocabulary-size,
            sequence-length) more than the texts have.
    """
    return _load(settings.dataset, settings.files)


def inspect(settings: DataSettings) -> Task:
    """Return what a network has to know: the number of classes, the shape of an input, the vocabulary.

    Reads no examples, so the files of a published set need not be there.

    Raises:
        SettingError: (key data-root) the folder of an image folder is missing or not laid out as it must be; (key
            synthetic-groups) groups that these data cannot have.
    """
    task = SOURCES[settings.dataset].inspect(settings.files)
    synthetic_groups.check(settings.synthetic_groups, task.classes, task.input_shape)
    return task


def input_facts(settings: DataSettings) -> InputFacts:
    """Return what somebody needs to know to use a network that was trained on these data.

    Raises:
        SettingError: as `load`.
    """
    data, source = load(settings), SOURCES[settings.dataset]
    task, tell = data.task, getattr(source, "facts", None)
    told: SourceFacts = SourceFacts() if tell is None else tell(settings.files)
    mean, std = ((), ()) if task.vocabulary else (tuple(part.flatten().tolist()) for part in data.statistics)
    return InputFacts(
        dataset=settings.dataset,
        classes=told.classes or tuple(map(str, range(task.classes))),
        input_shape=task.input_shape,
        vocabulary=task.vocabulary,
        images=source.images,
        mean=mean,
        std=std,
        white=told.white,
        units=told.units,
        tokens=told.tokens,
    )


# Two: one in use and one for a comparison; more would only hold memory.
@lru_cache(maxsize=2)
def _load(name: str, files: Files) -> DataSet:
    source = SOURCES[name]
    train, test = source.read(files)
    return DataSet(name=name, task=source.inspect(files), train_examples=train, test_examples=test)
