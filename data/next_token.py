"""The user's own texts, for networks that say which token comes next: windows of tokens, and the one after each.

The tokenizer is a file, such as the one that a pretrained model came with. Token 0 of an input is padding, so token i
of the tokenizer is i + 1 there and class i as a label: whatever a tokenizer's own token 0 is, the two are apart, and a
model that was trained with that tokenizer finds its tokens by subtracting one.

Texts are read as they are: nothing is put before or after them. A text of at most `sequence-length` tokens is one
example, its last token what comes next. A longer one is cut into windows of that length, a quarter of it apart. Where
there is no test part, windows that end in the last fifth of a text are the test part, so that no tested token was
trained on; what is before them may reach back into the rest. Where no text is that long, one example in five is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from data.data_error import DataError
from data.examples import Examples, Task
from data.files import Files
from data.input_facts import MOST_CHARACTERS, MOST_DETAILS, InputFacts, SourceFacts
from data.labelled_texts import LabelledText, read_document, read_texts, text_files
from data.pooled import CLASSES
from data.summary import Summary
from data.tokens import SHIFT, made, read_tokenizer
from models.networks.spec import PADDING

_LENGTH = 64
_APART = 4  # windows begin so many times in their length
_TRAINED = 4, 5  # share of a text
_AT_ONCE = 256  # texts that the tokenizer gets together
_TXT = ".txt"
_SHOWN = 100  # characters of a long name
_MOST_SAID = 2**24 - 2**16  # characters; a text of a message may have 2**24
UNITS = "tokens before"

Tokens = NDArray[np.int32]


class NextToken:
    """Windows of `sequence-length` tokens (64 by default) and the token after each; owners are clients of the rows.

    A file is as of `Texts`, without labels: `.txt` is one text; rows of the others have the first of `text-columns`,
    and the third, if three are given, says whose a text is.
    """

    images = False
    owned = True
    local = True

    def inspect(self, files: Files) -> Task:
        """As many classes as the tokenizer has tokens, the length, and a token more, which is padding.

        Raises:
            SettingError: (key tokenizer) it names no tokenizer's file.
        """
        tokens = len(_names(_tokenizer(files)))
        return Task(tokens, (_length(files),), tokens + SHIFT)

    provisional = inspect  # no text decides anything

    def facts(self, files: Files) -> SourceFacts:
        """Classes are called as the tokens; the tokenizer goes along."""
        told = _tokenizer(files)
        return SourceFacts(classes=_names(told), units=UNITS, details=told)

    def read(self, files: Files) -> tuple[Examples, Examples]:
        """Return the train and test windows.

        Raises:
            SettingError: (key data-root) no such files, or a row that cannot be read; (key tokenizer) as `inspect`.
        """
        told, length = _tokenizer(files), _length(files)
        train, test = _rows(files)
        clients = {name: number for number, name in enumerate(sorted({row.client for row in train}))}
        alone = not test and not files.own
        found = [_Windows(length=length, owned=any(clients)) for _ in range(2)]
        for row, ids in zip(train, _numbered(files, told, train), strict=True):
            owner = clients[row.client]
            end = max(length, len(ids) * _TRAINED[0] // _TRAINED[1]) if alone else len(ids)
            found[0].add(ids[:end], 0, owner)
            found[1].add(ids, end, owner)
        for row, ids in zip(test, _numbered(files, told, test), strict=True):
            found[1].add(ids, 0, clients.get(row.client, -1))
        return found[0].examples(), found[1].examples()

    def summarise(self, files: Files) -> Summary:
        """How many texts there are, and nothing about what is in them: the tokenizer decides the task."""
        return Summary(counts={CLASSES: {"": len(_rows(files)[0])}})

    def facts_from(self, summary: Summary, files: Files) -> InputFacts:
        """By the tokenizer alone.

        Raises:
            ValueError: nobody has any text.
        """
        if not summary.count(CLASSES):
            raise ValueError("no texts")
        task, said = self.inspect(files), self.facts(files)
        return InputFacts(
            dataset="next-token",
            classes=said.classes,
            input_shape=task.input_shape,
            vocabulary=task.vocabulary,
            units=said.units,
            details=said.details,
        )


@dataclass(kw_only=True)
class _Windows:
    """Examples that are collected text by text."""

    length: int
    owned: bool

    def __post_init__(self) -> None:
        self._rows: list[Tokens] = []
        self._labels: list[Tokens] = []
        self._owners: list[int] = []

    def add(self, ids: Tokens, first: int, owner: int) -> None:
        """Windows of a text's tokens (n), whose next token stands at `first` or later; the shorter text is one."""
        if len(ids) < 2:
            return
        if len(ids) <= self.length:
            ends = np.array([len(ids) - 1] if len(ids) - 1 >= first else [], dtype=np.int64)
            rows = np.full((len(ends), self.length), PADDING, dtype=np.int32)
            rows[:, : len(ids) - 1] = ids[:-1]
        else:
            begin = max(self.length, first)
            ends = np.arange(begin, len(ids), max(1, self.length // _APART))
            rows = np.lib.stride_tricks.sliding_window_view(ids, self.length)[ends - self.length]
        self._rows.append(rows)
        self._labels.append(ids[ends] - SHIFT)
        self._owners += [owner] * len(ends)

    def examples(self) -> Examples:
        """What was collected."""
        rows = np.concatenate([np.empty((0, self.length), np.int32), *self._rows])
        labels = np.concatenate([np.empty(0, np.int32), *self._labels]).astype(np.int64)
        owners = torch.tensor(self._owners, dtype=torch.int64) if self.owned else None
        return Examples(torch.from_numpy(rows), torch.from_numpy(labels), owners)


def _length(files: Files) -> int:
    return files.sequence_length or _LENGTH


def _numbered(files: Files, tokenizer: str, rows: Sequence[LabelledText]) -> Iterator[Tokens]:
    """The tokens of texts, as inputs have them.

    Raises:
        DataError: one has what the tokenizer does not know, and it has no token for that.
    """
    library = made(tokenizer)
    for start in range(0, len(rows), _AT_ONCE):
        texts = [row.text for row in rows[start : start + _AT_ONCE]]
        try:
            found = library.encode_batch_fast(texts, add_special_tokens=False)
        except Exception as error:  # the library raises Exception itself
            allowed = f"texts that the tokenizer can divide ({' '.join(str(error).split())[:200]})"
            raise DataError(files.root, allowed, "the tokenizer cannot divide one of its texts") from None
        for encoded in found:
            yield np.asarray(encoded.ids, dtype=np.int32) + SHIFT


@lru_cache(maxsize=2)
def _names(tokenizer: str) -> tuple[str, ...]:
    """What the tokens are called, by number; numbers that are left out, and long names, are named by their number."""
    numbers = {number: token for token, number in made(tokenizer).get_vocab().items()}
    found = dict.fromkeys(numbers.values())
    for number in range(max(numbers, default=-1) + 1):
        if number in numbers and len(numbers[number]) <= MOST_CHARACTERS:
            continue
        name = f"{numbers.get(number, '')[:_SHOWN]}<{number}>"
        while name in found:
            name += ">"
        found[name] = None
        numbers[number] = name
    return tuple(numbers[number] for number in range(len(numbers)))


@lru_cache(maxsize=2)
def _tokenizer(files: Files) -> str:
    """The tokenizer that the run has, or that its configuration names."""
    return read_tokenizer(files.tokenizer, "", _compact) if files.facts is None else files.facts.details


def _compact(text: str) -> str:
    told, names = str(made(text).to_str()), _names(text)
    said = len(json.dumps([told, names], ensure_ascii=False))  # goes with every request
    if len(names) < 2 or len(told) > MOST_DETAILS or said > _MOST_SAID:
        allowed = f"2 tokens at least, at most {MOST_DETAILS} characters and {_MOST_SAID} with the tokens' names"
        raise ValueError(f"{allowed}; it has {len(names)}, {len(told)} and {said}")
    return told


@lru_cache(maxsize=4)
def _rows(files: Files) -> tuple[list[LabelledText], list[LabelledText]]:
    text, _, *client = files.columns_of_texts
    train, test = (
        [
            row
            for file in part
            for row in (
                [read_document(file)]
                if file.suffix.lower() == _TXT
                else read_texts(file, [text, *client], labelled=False)
            )
        ]
        for part in text_files(files.root)
    )
    return train, test
