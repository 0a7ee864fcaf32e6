"""Shakespeare by speaker: who says what, windows, the held-out part, and wrong files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data import DataSettings, Task, inspect, load
from data.shakespeare import CHARACTERS, numbered, speakers, windows
from models.errors import SettingError
from tests.corpora import write_shakespeare


def _settings(root: Path, sequence_length: int = 0) -> DataSettings:
    return DataSettings(dataset="shakespeare", data_root=str(root), sequence_length=sequence_length)


def _refusal(root: Path, **keys: int) -> SettingError:
    with pytest.raises(SettingError) as caught:
        load(_settings(root, **keys))
    assert "\n" not in str(caught.value)
    return caught.value


def _text(tokens: torch.Tensor) -> str:
    return "".join(CHARACTERS[token - 2] for token in tokens.tolist())


def test_speeches_are_joined_by_speaker() -> None:
    text = "A:\none\ntwo\n\nB b:\nthree: four\n\nA:\nfive\n\nC:\n\nno name\nsix\n\n\n\nB b:\nseven\n"
    assert speakers(text) == {"A": "one\ntwo\nfive", "B b": "three: four\nseven"}


def test_windows_continue_what_their_speaker_says(tmp_path: Path) -> None:
    said = write_shakespeare(tmp_path)
    loaded = load(_settings(tmp_path, sequence_length=20))
    assert inspect(_settings(tmp_path, sequence_length=20)) == loaded.task == Task(65, (20,), 67)
    assert loaded.train_examples.values.dtype == torch.uint8
    assert loaded.train.inputs.dtype == loaded.train.labels.dtype == torch.int64
    for examples in (loaded.train_examples, loaded.test_examples):
        assert examples.owners is not None
        assert set(examples.owners.tolist()) == {0, 1}  # "All" says too little
        for value, label, owner in zip(examples.values, examples.labels, examples.owners, strict=True):
            assert _text(value) + CHARACTERS[label] in list(said.values())[owner]


@given(count=st.integers(0, 400), length=st.integers(1, 90))
def test_nothing_that_is_tested_was_to_be_learnt(count: int, length: int) -> None:
    """Positions stand for characters here, so that a window says where it is from."""
    text = np.arange(count, dtype=np.int64) + 2
    train, test = windows(text, length)  # type: ignore[arg-type]
    end = count * 4 // 5
    assert train.shape[1] == test.shape[1] == length + 1
    assert all((np.diff(window) == 1).all() for window in (*train, *test))
    assert (train < end + 2).all()
    assert (test[:, -1] >= end + 2).all()
    if end > length:
        assert train[:, -1].tolist() == list(range(length + 2, end + 2, 5))
        assert test[:, -1].tolist() == list(range(end + 2, count + 2, 20))
    else:
        assert len(train) == len(test) == 0


def test_a_character_of_another_text_is_unknown_and_never_a_target() -> None:
    text = numbered("abcé" * 40)
    assert text[:4].tolist() == [CHARACTERS.index("a") + 2, CHARACTERS.index("b") + 2, CHARACTERS.index("c") + 2, 1]
    train, test = windows(text, 3)
    assert (train == 1).any()
    assert not (train[:, -1] == 1).any()
    assert not (test[:, -1] == 1).any()


@pytest.mark.usefixtures("offline")
def test_a_missing_file_is_named(tmp_path: Path) -> None:
    error = _refusal(tmp_path)
    assert error.key == "data-root"
    assert "Shakespeare/input.txt" in error.allowed
    assert "no network" in error.allowed


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"once upon a time\n\nthere was\n", b"NAME:\n"])
def test_another_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "Shakespeare").mkdir()
    (tmp_path / "Shakespeare" / "input.txt").write_bytes(content)
    error = _refusal(tmp_path)
    assert error.key == "data-root"
    assert "Shakespeare/input.txt" in error.allowed


def test_windows_longer_than_any_text(tmp_path: Path) -> None:
    write_shakespeare(tmp_path, speeches=2)
    error = _refusal(tmp_path, sequence_length=80)
    assert (error.key, error.value) == ("sequence-length", 80)
    assert "85 characters" in error.allowed
    assert _refusal(tmp_path).value == 0  # the default length says so as well


@pytest.mark.slow
def test_the_real_text() -> None:
    root = Path(os.environ.get("FLOTILLA_DATA", ""))
    if not (root / "Shakespeare").is_dir():
        pytest.skip("FLOTILLA_DATA names no folder with Shakespeare")
    loaded = load(_settings(root))
    owners = loaded.train_examples.owners
    assert owners is not None
    assert len(speakers((root / "Shakespeare" / "input.txt").read_text())) == 299
    assert (len(loaded.train), len(loaded.test), len(set(owners.tolist()))) == (160_126, 10_373, 247)
    assert (loaded.train.inputs >= 2).all()
