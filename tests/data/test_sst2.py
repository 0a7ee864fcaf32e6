"""SST-2: vocabulary, padding, and every way in which the files can be wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data import DataSettings, Task, inspect, load
from data.text import UNKNOWN, tokens, vocabulary
from models.errors import SettingError
from models.networks.spec import PADDING
from tests.corpora import write_sst2


def _settings(root: Path, vocabulary_size: int = 10, sequence_length: int = 0) -> DataSettings:
    return DataSettings(
        dataset="sst2", data_root=str(root), vocabulary_size=vocabulary_size, sequence_length=sequence_length
    )


def _refusal(root: Path, **keys: int) -> SettingError:
    with pytest.raises(SettingError) as caught:
        load(_settings(root, **keys))
    assert "\n" not in str(caught.value)
    return caught.value


def _write(root: Path, train: str, test: str = "1 good\n") -> None:
    (root / "SST2").mkdir()
    (root / "SST2" / "stsa.binary.train").write_text(train)
    (root / "SST2" / "stsa.binary.test").write_text(test)


def test_words_are_numbered_by_frequency_in_the_train_split(tmp_path: Path) -> None:
    _write(tmp_path, "1 b a b c\n0 a b d\n", "0 a z d d d\n1 b\n")
    loaded = load(_settings(tmp_path, vocabulary_size=5, sequence_length=4))
    # b 3, a 2, then c and d once each by name: d is the sixth and no longer known; z never was.
    assert loaded.train.inputs.tolist() == [[2, 3, 2, 4], [3, 2, 1, 0]]
    assert loaded.test.inputs.tolist() == [[3, 1, 1, 1], [2, 0, 0, 0]]
    assert (loaded.train.labels.tolist(), loaded.test.labels.tolist()) == ([1, 0], [0, 1])
    assert loaded.train.inputs.dtype == loaded.train.labels.dtype == torch.int64
    assert loaded.task == inspect(_settings(tmp_path, vocabulary_size=5, sequence_length=4)) == Task(2, (4,), 5)


def test_by_default_no_sentence_is_cut(tmp_path: Path) -> None:
    assert inspect(DataSettings(dataset="sst2", data_root=str(tmp_path / "none"))) == Task(2, (56,), 8000)


_WORDS = st.lists(st.text("abcé", min_size=1, max_size=2), min_size=1, max_size=6)


@given(st.lists(_WORDS, min_size=1, max_size=8), st.integers(3, 30), st.integers(1, 8))
def test_tokens_say_what_the_words_were(sentences: list[list[str]], size: int, length: int) -> None:
    numbers = vocabulary(sentences)
    words = {number: word for word, number in numbers.items()}
    assert sorted(words) == list(range(2, len(words) + 2))
    counts = [sum(sentence.count(words[number]) for sentence in sentences) for number in sorted(words)]
    assert counts == sorted(counts, reverse=True)
    for row, sentence in zip(tokens(sentences, numbers, size, length).tolist(), sentences, strict=True):
        assert len(row) == length
        assert max(row) < size
        known = [words[token] if token != UNKNOWN else None for token in row if token != PADDING]
        assert row[len(known) :] == [PADDING] * (length - len(known))
        assert known == [word if numbers[word] < size else None for word in sentence[:length]]


def test_the_test_split_may_have_any_word(tmp_path: Path) -> None:
    _write(tmp_path, "1 b a b c\n0 a b d\n", "0 never heard\n")
    assert load(_settings(tmp_path, vocabulary_size=6, sequence_length=3)).test.inputs.tolist() == [[1, 1, 0]]


def test_a_vocabulary_over_what_the_texts_have(tmp_path: Path) -> None:
    words = write_sst2(tmp_path)
    load(_settings(tmp_path, vocabulary_size=words + 2))
    error = _refusal(tmp_path, vocabulary_size=words + 3)
    assert error.key == "vocabulary-size"
    assert f"at most {words + 2} with dataset" in error.allowed


@pytest.mark.usefixtures("offline")
def test_missing_files_are_named(tmp_path: Path) -> None:
    error = _refusal(tmp_path)
    assert error.key == "data-root"
    assert "SST2/stsa.binary.train, SST2/stsa.binary.test" in error.allowed
    assert "https://" in error.allowed
    assert "no network" in error.allowed


@pytest.mark.parametrize(
    ("train", "wanted"),
    [
        ("1 a\nb a\n", "stsa.binary.train (line 2 is not"),
        ("1 a\n0\n", "(line 2 is not"),
        ("1 a\n2 b\n", "(line 2 is not"),
        ("1a b\n", "(line 1 is not"),
        ("", "at least one sentence in SST2/stsa.binary.train"),
        ("\n\n", "at least one sentence in SST2/stsa.binary.train"),
    ],
)
def test_damaged_lines_are_named(tmp_path: Path, train: str, wanted: str) -> None:
    _write(tmp_path, train)
    error = _refusal(tmp_path, vocabulary_size=3)
    assert error.key == "data-root"
    assert wanted in error.allowed


def test_what_is_no_text(tmp_path: Path) -> None:
    _write(tmp_path, "1 a\n")
    (tmp_path / "SST2" / "stsa.binary.test").write_bytes(b"1 \xff\xfe\n")
    assert "a readable SST2/stsa.binary.test" in _refusal(tmp_path, vocabulary_size=3).allowed


@pytest.mark.slow
def test_the_real_set() -> None:
    root = Path(os.environ.get("FLOTILLA_DATA", ""))
    if not (root / "SST2").is_dir():
        pytest.skip("FLOTILLA_DATA names no folder with SST2")
    loaded = load(DataSettings(dataset="sst2", data_root=str(root)))
    assert torch.bincount(loaded.train.labels).tolist() == [3310, 3610]
    assert torch.bincount(loaded.test.labels).tolist() == [912, 909]
    assert 0.90 < (loaded.test.inputs[loaded.test.inputs != PADDING] != UNKNOWN).float().mean() < 0.92
    with pytest.raises(SettingError, match="at most 14830"):
        load(DataSettings(dataset="sst2", data_root=str(root), vocabulary_size=14831))
