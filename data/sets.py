"""From settings to a data set: read once per process, shared by everybody in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any, cast

import torch

from data import synthetic_groups
from data.data_error import DataError
from data.examples import DataSet, Examples, Split, Task
from data.files import Files
from data.given import as_many, examples_of, labels_of, tensor_of
from data.input_facts import InputFacts, SourceFacts
from data.pooled import facts_of, summary_of
from data.settings import DataSettings
from data.sources import SOURCES, is_local
from data.summary import Summary
from data.unsplit import with_test_part
from models.errors import SettingError
from models.losses import CLASSIFICATION


def load(settings: DataSettings, facts: InputFacts | None = None) -> DataSet:
    """Return the data set that `settings` names; reads it on the first call.

    Settings that differ only in how the data are divided get the same object.

    Args:
        settings: which data.
        facts: what the run has decided of the task: labels are numbered and inputs normalised by it. None: by what
            these data themselves say.

    Raises:
        SettingError: (key data-root) files are missing and cannot be downloaded, or are damaged, or have a class or a
            value that the facts do not allow; (keys vocabulary-size, sequence-length) more than the texts have.
    """
    if facts is None or not is_local(SOURCES[settings.dataset]):
        raw = _load(settings.dataset, settings.files)
        return raw if facts is None else _normalised(raw, facts)
    return _load(settings.dataset, replace(settings.files, facts=facts))


def evaluated_on(settings: DataSettings, facts: InputFacts) -> Split:
    """What a server scores a run on: the test part of its data.

    Where devices own theirs, and what the server has is in one part, all of it; nothing where it has none.

    Raises:
        SettingError: as `load`.
    """
    if not settings.known:
        return Split(torch.zeros(0, *facts.input_shape), torch.zeros(0, dtype=torch.int64))
    data = load(settings, facts)
    return data.train if settings.own and not len(data.test_examples) else data.test


def inspect(settings: DataSettings, facts: InputFacts | None = None) -> Task:
    """Return what a network has to know: the number of classes, the shape of an input, the vocabulary.

    Reads no examples, so the files of a published set need not be there. Where nothing is known yet (devices own the
    data, the server has none and has not asked) it is what the settings alone can say, with two classes.

    Raises:
        SettingError: (key data-root) the folder of an image folder is missing or not laid out as it must be; (key
            synthetic-groups) groups that these data cannot have.
    """
    source = SOURCES[settings.dataset]
    if facts is not None:
        task = Task(len(facts.classes), facts.input_shape, facts.vocabulary, kind=facts.task)
    elif settings.known:
        task = _told(settings.dataset, source.inspect(settings.files), settings.files)
    else:
        task = cast(Any, source).provisional(settings.files)
    if facts is not None or settings.known:
        if settings.augment != "none" and len(task.input_shape) != 3:
            raise SettingError("augment", settings.augment, '"none" where inputs are no images')
        synthetic_groups.check(settings.synthetic_groups, task.classes, task.input_shape)
    return task


def input_facts(settings: DataSettings) -> InputFacts:
    """Return the facts of these data: what somebody needs to know to use a network that was trained on them.

    Raises:
        SettingError: as `load`; also where they have fewer than two classes.
    """
    if settings.own:
        return facts_from(settings, summarise(settings))
    data, source = load(settings), SOURCES[settings.dataset]
    task, told = data.task, _said(source, settings.files)
    mean, std = ((), ()) if task.vocabulary else (tuple(part.flatten().tolist()) for part in data.statistics)
    with _as_data_error(settings.data_root):
        return InputFacts(
            dataset=settings.dataset,
            classes=told.classes or tuple(map(str, range(task.classes))),
            input_shape=task.input_shape,
            vocabulary=task.vocabulary,
            images=source.images and len(task.input_shape) == 3,
            mean=mean,
            std=std,
            least=0.0 if task.vocabulary else data.sums.least,
            greatest=0.0 if task.vocabulary else data.sums.greatest,
            white=told.white,
            units=told.units,
            tokens=told.tokens,
            task=told.task,
            examples=len(data.train_examples),
            details=told.details,
            fit=told.fit,
        )


def summarise(settings: DataSettings) -> Summary:
    """Return sums over the training examples of these data: what a device tells so that the facts can be decided.

    Raises:
        SettingError: as `load`.
    """
    source, files = SOURCES[settings.dataset], settings.files
    own: Any = getattr(source, "summarise", None)
    with _as_data_error(settings.data_root):
        if own is not None:
            return cast(Summary, own(files))
        data, told = load(settings), _said(source, files)
        classes = told.classes or tuple(map(str, range(data.classes)))
        return summary_of(data.train_examples, classes, data.task.input_shape, texts=bool(data.task.vocabulary))


def facts_from(settings: DataSettings, summary: Summary) -> InputFacts:
    """Return the facts of a task whose examples were pooled, of one folder or of many devices.

    Raises:
        SettingError: (key data-root) they do not make a task: no examples, one class, inputs of different shapes.
    """
    source, files = SOURCES[settings.dataset], settings.files
    own: Any = getattr(source, "facts_from", None)
    with _as_data_error(settings.data_root):
        if own is not None:
            return cast(InputFacts, own(summary, files))
        task = cast(Any, source).provisional(files)
        said = SourceFacts(fit=files.image_fit, task=task.kind)
        return facts_of(summary, settings.dataset, said, vocabulary=task.vocabulary, images=source.images)


@contextmanager
def _as_data_error(root: object) -> Iterator[None]:
    """What makes no task, as an error of whoever has the data."""
    try:
        yield
    except SettingError:
        raise
    except ValueError as error:
        raise DataError(root, f"data of a task: {error}", "no task can be made of the data") from None


# Two: one in use and one for a comparison; more would only hold memory.
@lru_cache(maxsize=2)
def _load(name: str, files: Files) -> DataSet:
    source, facts = SOURCES[name], files.facts
    train, test = _parts(name, source.read(files), files)
    told = _said(source, files)
    if not len(train) + len(test):
        raise DataError(files.root, f"a folder with examples of {name!r}", "it has no examples")
    if facts is None:
        task = _told(name, source.inspect(files), files)
    else:
        task = Task(len(facts.classes), facts.input_shape, facts.vocabulary, kind=facts.task)
        numbers = {label: number for number, label in enumerate(facts.classes)}
        names = told.classes or tuple(map(str, range(len(numbers))))
        for part, examples in (("train", train), ("test", test)):
            _check_kind(name, part, examples.labels, task, files)
            _check_labels(name, part, examples.labels, len(names), files)
        train, test = (_renumbered(part, names, numbers, files) for part in (train, test))
    for part, examples in (("train", train), ("test", test)):
        _check(name, part, examples, task, files)
    if not files.own:
        train, test = with_test_part(train, test)
    return DataSet(name=name, task=task, train_examples=train, test_examples=test, facts=facts)


@lru_cache(maxsize=2)
def _normalised(data: DataSet, facts: InputFacts) -> DataSet:
    return replace(data, facts=facts)


def _said(source: object, files: Files) -> SourceFacts:
    tell: Any = getattr(source, "facts", None)
    return SourceFacts() if tell is None else cast(SourceFacts, tell(files))


def _told(name: str, given: object, files: Files) -> Task:
    if not isinstance(given, Task):
        allowed = f"{name!r} whose inspect(files) returns a data.Task; it returns a {type(given).__name__}"
        raise DataError(files.root, allowed, "its task cannot be told; its log says why")
    return given


def _parts(name: str, given: object, files: Files) -> tuple[Examples, Examples]:
    """What a source has read, in the form that everything here counts on."""
    whole = "its examples cannot be used; its log says why"
    if not isinstance(given, tuple | list) or len(given) != 2 or not all(isinstance(one, Examples) for one in given):
        allowed = f"{name!r} whose read(files) returns two data.Examples, to train with and to test on"
        kinds = ", ".join(type(one).__name__ for one in (given if isinstance(given, tuple | list) else (given,)))
        raise DataError(files.root, f"{allowed}; it returns {kinds[:80] or 'nothing'}", whole)
    parts = []
    for part, examples in zip(("train", "test"), given, strict=True):
        try:
            parts.append(_in_form(examples))
        except ValueError as error:
            raise DataError(files.root, f"{name!r} whose {part} part has {error}", whole) from None
    return parts[0], parts[1]


def _in_form(examples: Examples) -> Examples:
    """Examples whose tensors are what they have to be; what is decoded on demand has tensors of ours."""
    if type(examples) is not Examples:
        return examples.with_labels(as_many("labels", labels_of(examples.labels), len(examples)))
    values, labels = examples_of(examples.values, examples.labels)
    if examples.owners is None:
        return Examples(values, labels)
    owners = tensor_of("owners", examples.owners)
    if owners.ndim != 1 or owners.is_floating_point():
        raise ValueError("owners as whole numbers [N]")
    return Examples(values, labels, as_many("owners", owners.to(torch.int64), len(values)))


def _renumbered(examples: Examples, names: tuple[str, ...], numbers: Mapping[str, int], files: Files) -> Examples:
    """Labels as the run numbers them, by their names; numbers are what they are."""
    if examples.labels.is_floating_point():
        return examples
    present = sorted(set(examples.labels.tolist()))
    unknown = [names[label] for label in present if names[label] not in numbers]
    if unknown:
        known = ", ".join(list(numbers)[:20]) + (", …" if len(numbers) > 20 else "")
        few = ", ".join(map(repr, unknown[:20]))
        raise DataError(
            files.root,
            f"data of classes that the run knows ({known}); it does not know {few}",
            f"it has {len(unknown)} classes that the run does not know; its log names them",
        )
    table = torch.tensor([numbers.get(name, -1) for name in names], dtype=torch.int64)
    return examples.with_labels(table[examples.labels])


def _check(name: str, part: str, examples: Examples, task: Task, files: Files) -> None:
    """Refuse inputs of another shape, labels out of range and values that are not finite."""
    if len(examples) and examples.shape != task.input_shape:
        allowed = (
            f"{name!r} with inputs of {_sides(task.input_shape)}; those of its {part} part are {_sides(examples.shape)}"
        )
        raise DataError(files.root, allowed, f"its inputs are {_sides(examples.shape)}, not {_sides(task.input_shape)}")
    _check_kind(name, part, examples.labels, task, files)
    _check_labels(name, part, examples.labels, task.classes, files)
    if not examples.finite:
        row = int((~examples.values.isfinite().flatten(1).all(1)).nonzero()[0])
        allowed = f"{name!r} with finite values; row {row} of its {part} part has one that is not"
        raise DataError(files.root, allowed, "a value is not finite; its log says which")


def _sides(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _check_kind(name: str, part: str, labels: torch.Tensor, task: Task, files: Files) -> None:
    """Refuse classes where numbers are wanted, and numbers where classes are."""
    if not len(labels):
        return
    numbers, wanted = labels.ndim == 2, task.kind != CLASSIFICATION
    if numbers != wanted or (wanted and labels.shape[1] != task.classes):
        form = f"float32 [N, {task.classes}]" if wanted else "int64 [N]"
        has = f"[N, {labels.shape[1]}]" if numbers else "whole numbers [N]"
        allowed = f"{name!r} with labels {form} where the task is {task.kind}; those of its {part} part are {has}"
        raise DataError(files.root, allowed, "its labels are not what the task wants; its log says why")


def _check_labels(name: str, part: str, labels: torch.Tensor, classes: int, files: Files) -> None:
    if labels.is_floating_point():
        if not bool(labels.isfinite().all()):
            row = int((~labels.isfinite()).any(1).nonzero()[0])
            allowed = f"{name!r} with finite targets; row {row} of its {part} part has one that is not"
            raise DataError(files.root, allowed, "a target is not finite; its log says which")
    elif len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        row = int(((labels < 0) | (labels >= classes)).nonzero()[0])
        allowed = f"{name!r} with labels 0 to {classes - 1}; row {row} of its {part} part has {int(labels[row])}"
        raise DataError(files.root, allowed, "a label is out of range; its log says which")
