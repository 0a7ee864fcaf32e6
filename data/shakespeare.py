"""Tiny Shakespeare by speaker: given some characters, say which one comes next.

The task is LEAF's (Caldas et al., arXiv 1812.01097): the 80 previous characters of one speaker's lines → the next one.
The text is the 1.1 MB of Karpathy's char-rnn, about a fifth of LEAF's collected works: 299 speakers. Blank lines
separate speeches, and the first line of each is `NAME:`.

A speaker's speeches are joined by line breaks. The first four fifths of that text are for training: every fifth window
in it is an example, since neighbours differ in one character. The rest is the test set, common to all: every
twentieth character there is to be predicted from those before it, which may reach back into the first part. Speakers
whose training part is shorter than one window are left out.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from data.examples import Examples, Task
from data.fetch import download_files, ensure
from data.files import Files
from data.input_facts import SourceFacts
from data.text import RESERVED, UNKNOWN
from models.errors import SettingError

_FOLDER, _FILE = "Shakespeare", "input.txt"
_ADDRESS = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/"
_SHA256 = {_FILE: "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"}

# Those of the text. Fixed, so that a network is known without the files; others are unknown and never to be predicted.
CHARACTERS = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LENGTH = 80
_TRAIN_STRIDE, _TEST_STRIDE = 5, 20
_TRAINED = 4, 5  # share of each speaker's text

Tokens = NDArray[np.uint8]


class Shakespeare:
    """Windows of `sequence-length` characters (80 by default); owners are speakers in the order of their first words.

    Character i of `CHARACTERS` is class i and token i + 2, after padding and unknown.
    """

    images = False
    owned = True

    def inspect(self, files: Files) -> Task:
        """Return 65 classes, the length and 67 tokens; the file need not be there."""
        return Task(len(CHARACTERS), (files.sequence_length or _LENGTH,), len(CHARACTERS) + RESERVED)

    def facts(self, files: Files) -> SourceFacts:
        """Classes and tokens are the characters."""
        del files
        return SourceFacts(classes=tuple(CHARACTERS), units="characters", tokens=tuple(CHARACTERS))

    def read(self, files: Files) -> tuple[Examples, Examples]:
        """Return the train and test windows.

        Raises:
            SettingError: (key data-root) the file is missing and cannot be downloaded, or is not such a text; (key
                sequence-length) no speaker has that much text.
        """
        ensure(files.root, _FOLDER, (_FILE,), _ADDRESS + _FILE, download_files(_FOLDER, _ADDRESS, _SHA256))
        try:
            text = (files.root / _FOLDER / _FILE).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            allowed = f"a folder with a readable {_FOLDER}/{_FILE} ({error})"
            raise SettingError("data-root", str(files.root), allowed) from error
        lines = speakers(text)
        if not lines:
            allowed = f"a folder with an undamaged {_FOLDER}/{_FILE}: speeches that begin with NAME: (it has none)"
            raise SettingError("data-root", str(files.root), allowed)
        length = files.sequence_length or _LENGTH
        found = [windows(numbered(speech), length) for speech in lines.values()]
        train, test = (_examples([pair[part] for pair in found]) for part in (0, 1))
        if not len(train) or not len(test):
            longest = max(map(len, lines.values()))
            allowed = f"less than the {longest} characters of the longest speaker, by a fifth at least"
            raise SettingError("sequence-length", files.sequence_length, allowed)
        return train, test


def speakers(text: str) -> dict[str, str]:
    """Return what each speaker says, in order of first appearance."""
    found: dict[str, list[str]] = {}
    for speech in text.split("\n\n"):
        head, _, said = speech.strip("\n").partition("\n")
        if head.endswith(":") and said:
            found.setdefault(head[:-1], []).append(said)
    return {name: "\n".join(speeches) for name, speeches in found.items()}


def numbered(text: str) -> Tokens:
    """Return the token of every character."""
    numbers = {character: number for number, character in enumerate(CHARACTERS, RESERVED)}
    return np.array([numbers.get(character, UNKNOWN) for character in text], dtype=np.uint8)


def windows(text: Tokens, length: int) -> tuple[Tokens, Tokens]:
    """Cut one speaker's text into windows to train and to test, uint8 [n, length + 1]; the last token is the target."""
    end = len(text) * _TRAINED[0] // _TRAINED[1]
    if end <= length:
        return (np.empty((0, length + 1), np.uint8),) * 2
    every = np.lib.stride_tricks.sliding_window_view(text, length + 1)
    # Window i predicts character i + length.
    train, test = every[: end - length : _TRAIN_STRIDE], every[end - length :: _TEST_STRIDE]
    return train[train[:, -1] != UNKNOWN], test[test[:, -1] != UNKNOWN]


def _examples(by_speaker: list[Tokens]) -> Examples:
    together = torch.from_numpy(np.concatenate(by_speaker))
    counts = torch.tensor([len(part) for part in by_speaker])
    owners = torch.repeat_interleave(torch.arange(len(counts)), counts)
    return Examples(together[:, :-1].contiguous(), together[:, -1].long() - RESERVED, owners)
