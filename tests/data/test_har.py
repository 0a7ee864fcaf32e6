"""UCI HAR: both file formats, the division by subject, normalisation, wrong files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from data import DataSettings, Task, inspect, load
from data.har import TEST_SUBJECTS
from models.errors import SettingError
from tests.corpora import har_arrays, har_windows, write_har, write_har_texts


def _settings(root: Path) -> DataSettings:
    return DataSettings(dataset="har", data_root=str(root))


def _refusal(root: Path) -> SettingError:
    with pytest.raises(SettingError) as caught:
        load(_settings(root))
    assert caught.value.key == "data-root"
    assert "\n" not in str(caught.value)
    return caught.value


def test_windows_are_divided_by_subject(tmp_path: Path) -> None:
    arrays = write_har(tmp_path)
    loaded, values = load(_settings(tmp_path)), har_windows(arrays)
    tested = np.isin(arrays["subject"], [2, 9])
    for examples, rows in ((loaded.train_examples, ~tested), (loaded.test_examples, tested)):
        assert np.array_equal(examples.values.numpy(), values[rows])
        assert np.array_equal(examples.labels.numpy(), arrays["label"][rows])
        assert examples.owners is not None
        assert np.array_equal(examples.owners.numpy(), arrays["subject"][rows])
    assert loaded.task == inspect(_settings(tmp_path / "none")) == Task(6, (9, 128))


def test_normalised_by_channel_of_the_train_split(tmp_path: Path) -> None:
    write_har(tmp_path)
    loaded = load(_settings(tmp_path))
    raw, before = loaded.train_examples.values.double(), loaded.train_examples.values.clone()
    mean, std = raw.mean((0, 2), keepdim=True), raw.std((0, 2), correction=0, keepdim=True)
    torch.testing.assert_close(loaded.train.inputs.double(), (raw - mean) / std, atol=1e-5, rtol=1e-5)
    test = loaded.test_examples.values.double()
    torch.testing.assert_close(loaded.test.inputs.double(), (test - mean) / std, atol=1e-5, rtol=1e-5)
    assert torch.equal(loaded.train_examples.values, before)
    rows = torch.tensor([5, 0, 3])
    assert torch.equal(loaded.select(rows).inputs, loaded.train.inputs[rows])


def test_uci_s_own_files_say_the_same(tmp_path: Path) -> None:
    arrays = write_har(tmp_path / "arrays")
    write_har_texts(tmp_path / "texts", arrays)
    one, other = load(_settings(tmp_path / "arrays")), load(_settings(tmp_path / "texts"))
    for split in ("train_examples", "test_examples"):
        a, b = getattr(one, split), getattr(other, split)
        assert torch.equal(a.values, b.values)
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.owners, b.owners)


def test_missing_files_are_named(tmp_path: Path) -> None:
    allowed = _refusal(tmp_path).allowed
    assert "UCIHAR/ucihar_inertial_by_subject.npz" in allowed
    assert "archive.ics.uci.edu" in allowed
    assert "UCIHAR/UCI HAR Dataset" in allowed


def _changed(name: str, value: Any) -> dict[str, NDArray[np.generic]]:
    arrays = har_arrays()
    return {**arrays, name: value(arrays[name])}


def _spoilt(values: NDArray[np.float32]) -> NDArray[np.float32]:
    values[3, 2, 1] = np.nan
    return values


@pytest.mark.parametrize(
    ("arrays", "wanted"),
    [
        (_changed("label", lambda a: a[:-1]), "window_halves"),
        (_changed("label", lambda a: a + 1), "label outside 0 to 5"),
        (_changed("label", lambda a: a[:0]), "window_halves"),
        (_changed("subject", lambda a: a[:-1]), "subjects"),
        (_changed("subject", lambda a: a * 0 + 2), "one of them is missing"),
        (_changed("subject", lambda a: a * 0 + 1), "one of them is missing"),
        (_changed("half_windows", lambda a: a[:, :5]), "instead of"),
        (_changed("half_windows", lambda a: a[:, :, :60]), "instead of"),
        (_changed("half_windows", lambda a: a.astype(np.float64)), "float64"),
        (_changed("half_windows", lambda a: a[:3]), "out of bounds"),
        (_changed("half_windows", lambda a: a.astype(object)), "pickle"),
        (_changed("half_windows", _spoilt), "not finite"),
        ({"label": np.zeros(3, np.uint8)}, "half_windows"),
    ],
)
def test_damaged_arrays(tmp_path: Path, arrays: dict[str, NDArray[np.generic]], wanted: str) -> None:
    write_har(tmp_path, arrays)
    allowed = _refusal(tmp_path).allowed
    assert "UCIHAR has undamaged files of UCI HAR" in allowed
    assert wanted in allowed


@pytest.mark.parametrize("damage", ["torn", "empty", "text", "flipped"])
def test_damaged_archive(tmp_path: Path, damage: str) -> None:
    write_har(tmp_path)
    file = tmp_path / "UCIHAR" / "ucihar_inertial_by_subject.npz"
    whole = file.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    file.write_bytes({"torn": whole[:middle], "empty": b"", "text": b"hello", "flipped": flipped}[damage])
    assert "UCIHAR has undamaged files of UCI HAR" in _refusal(tmp_path).allowed


@pytest.mark.parametrize("damage", ["missing", "empty", "ragged", "words", "short"])
def test_damaged_texts(tmp_path: Path, damage: str) -> None:
    folder = write_har_texts(tmp_path, har_arrays(1))
    file = folder / "train" / "Inertial Signals" / "body_gyro_y_train.txt"
    lines = file.read_text().splitlines()
    if damage == "missing":
        file.unlink()
    else:
        changed = {
            "empty": "",
            "ragged": "\n".join([*lines[:-1], "1 2 3"]),
            "words": "x y\n",
            "short": "\n".join(lines[:-1]),
        }
        file.write_text(changed[damage])
    assert "UCIHAR has undamaged files of UCI HAR" in _refusal(tmp_path).allowed


@pytest.mark.slow
def test_the_real_set() -> None:
    root = Path(os.environ.get("FLOTILLA_DATA", ""))
    if not (root / "UCIHAR").is_dir():
        pytest.skip("FLOTILLA_DATA names no folder with UCIHAR")
    loaded = load(_settings(root))
    assert (len(loaded.train), len(loaded.test)) == (7352, 2947)  # UCI's own division
    assert torch.bincount(loaded.train.labels).tolist() == [1226, 1073, 986, 1286, 1374, 1407]
    assert loaded.train_examples.owners is not None
    assert len(set(loaded.train_examples.owners.tolist())) == 21
    assert loaded.test_examples.owners is not None
    assert set(loaded.test_examples.owners.tolist()) == set(TEST_SUBJECTS)
