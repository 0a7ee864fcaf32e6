"""The user's own texts: files of labelled texts, and a tokenizer that the whole run shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache

import torch

from data.examples import Examples, Task
from data.files import Files
from data.input_facts import InputFacts, SourceFacts
from data.labelled_texts import LabelledText, read_texts, text_files
from data.pooled import CLASSES
from data.summary import Summary
from data.tokens import BPE, WORDS, checked, made, numbered, read_tokenizer, trained, word_counts
from models.errors import SettingError

_LENGTH = 64
_WORD = "word"
Rows = Callable[[Files], tuple[list[LabelledText], list[LabelledText]]]


class Texts:
    """Rows of text and label; a class is what its label is called, and numbers go by Python's `sorted`.

    The tokenizer is the run's: given as a file, or made of how often each word occurs, in all training texts together.
    Texts are cut off after `sequence-length` tokens (64 by default).

    Args:
        name: of the data set.
        rows: reads the training and the test rows; None: of files in the data root.
    """

    images = False
    owned = True
    local = True

    def __init__(self, name: str = "texts", rows: Rows | None = None) -> None:
        self.name, self._rows = name, rows or _rows

    def provisional(self, files: Files) -> Task:
        """Two classes, the length, and the vocabulary that the settings say."""
        return Task(2, (_length(files),), files.vocabulary_size)

    def inspect(self, files: Files) -> Task:
        """Return the number of classes, the length and the tokenizer's tokens; reads the files.

        Raises:
            SettingError: (key data-root) no such files, a row that cannot be read, or fewer than 2 classes to divide.
        """
        classes = _classes(self._rows, files)
        if len(classes) < 2 and not files.own:
            allowed = f"texts of at least 2 classes (there are {len(classes)})"
            raise SettingError("data-root", str(files.root), allowed)
        return Task(len(classes), (_length(files),), made(_tokenizer(self._rows, files)).get_vocab_size())

    def facts(self, files: Files) -> SourceFacts:
        """Labels are their own names; the tokenizer goes along."""
        told = _tokenizer(self._rows, files)
        return SourceFacts(classes=_classes(self._rows, files), units="subwords", details=told)

    def read(self, files: Files) -> tuple[Examples, Examples]:
        """Return the train and test texts as tokens.

        Raises:
            SettingError: as `inspect`.
        """
        classes = {name: number for number, name in enumerate(_classes(self._rows, files))}
        train, test = self._rows(files)
        clients = {name: number for number, name in enumerate(sorted({row.client for row in train}))}
        found = list[Examples]()
        for rows in (train, test):
            ids = numbered(_tokenizer(self._rows, files), [row.text for row in rows], _length(files))
            values = torch.tensor(ids, dtype=torch.int32).reshape(len(rows), _length(files))
            labels = torch.tensor([classes[row.label] for row in rows], dtype=torch.int64)
            owned = any(row.client for row in rows)
            owners = torch.tensor([clients.get(row.client, -1) for row in rows]) if owned else None
            found.append(Examples(values, labels, owners))
        return found[0], found[1]

    def summarise(self, files: Files) -> Summary:
        """How many texts of each class; where no tokenizer is given, how often each of the commonest words occurs."""
        train, _ = self._rows(files)
        counts: dict[str, Mapping[str, int]] = {CLASSES: Counter(row.label for row in train)}
        if _given(files) is None:
            counts[_WORD] = word_counts(row.text for row in train)
        return Summary(counts=counts)

    def facts_from(self, summary: Summary, files: Files) -> InputFacts:
        """A vocabulary of the words of all devices together.

        Raises:
            ValueError: fewer than two classes.
        """
        classes = tuple(sorted(summary.counts.get(CLASSES, {})))
        if len(classes) < 2:
            raise ValueError(f"at least 2 classes are needed; there are {len(classes)}")
        tokenizer = _given(files) or trained(files.tokenizer, summary.counts.get(_WORD, {}), files.vocabulary_size)
        return InputFacts(
            dataset=self.name,
            classes=classes,
            input_shape=(_length(files),),
            vocabulary=made(tokenizer).get_vocab_size(),
            units="subwords",
            details=tokenizer,
        )


def _length(files: Files) -> int:
    return files.sequence_length or _LENGTH


def _classes(rows: Rows, files: Files) -> tuple[str, ...]:
    train, test = rows(files)
    return tuple(sorted({row.label for row in (*train, *test)}))


@lru_cache(maxsize=2)
def _given(files: Files) -> str | None:
    """The tokenizer that the run has, or that its configuration names."""
    if files.facts is not None:
        return files.facts.details
    if files.tokenizer in (WORDS, BPE):
        return None
    return read_tokenizer(files.tokenizer, "words, bpe or ", checked)


@lru_cache(maxsize=2)
def _tokenizer(rows: Rows, files: Files) -> str:
    if (given := _given(files)) is not None:
        return given
    return trained(files.tokenizer, word_counts(row.text for row in rows(files)[0]), files.vocabulary_size)


@lru_cache(maxsize=4)
def _rows(files: Files) -> tuple[list[LabelledText], list[LabelledText]]:
    train, test = (
        [row for file in part for row in read_texts(file, files.columns_of_texts)] for part in text_files(files.root)
    )
    return train, test
