"""LEAF's JSON by client: pictures and texts, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from data import DataError, DataSettings, input_facts, inspect, load, node_data


def _write(root: Path, train: dict[str, list[tuple[Any, Any]]], test: dict[str, list[tuple[Any, Any]]]) -> None:
    for part, users in (("train", train), ("test", test)):
        (root / "leaf" / part).mkdir(parents=True)
        for number, (user, rows) in enumerate(users.items()):  # a file each, as LEAF's larger sets come
            told = {
                "users": [user],
                "num_samples": [len(rows)],
                "user_data": {user: {"x": [x for x, _ in rows], "y": [y for _, y in rows]}},
            }
            (root / "leaf" / part / f"{number}.json").write_text(json.dumps(told))


def _settings(root: Path) -> DataSettings:
    return DataSettings(dataset="leaf", data_root=str(root), partition="natural", num_clients=2)


def test_pictures_by_user(tmp_path: Path) -> None:
    pictures = {user: [([start + n / 10] * 9, n % 3) for n in range(4)] for user, start in (("f1", 0.0), ("f0", 0.5))}
    _write(tmp_path, pictures, {"f0": pictures["f0"][:1]})
    settings = _settings(tmp_path)
    assert inspect(settings).input_shape == (1, 3, 3)
    data = load(settings)
    assert (data.classes, len(data.train), len(data.test)) == (3, 8, 1)
    facts = input_facts(settings)
    first, second = (node_data(settings, node, facts) for node in (0, 1))  # f0, f1
    assert len(first.train) + len(first.test) == len(second.train) + len(second.test) == 4
    assert float(first.train.inputs.min()) > float(second.train.inputs.max())


def test_texts_by_user(tmp_path: Path) -> None:
    speeches = {user: [("abcd", "e"), ("bcd\u00e9", "f")] for user in ("PUCK", "SNUG")}
    _write(tmp_path, speeches, speeches)
    data = load(_settings(tmp_path))
    assert data.train.inputs.dtype == torch.int64
    assert data.train.inputs[1].tolist() == [69, 70, 71, 1] == [*data.train.inputs[0, 1:].tolist(), 1]
    assert input_facts(_settings(tmp_path)).classes == ("e", "f")


@pytest.mark.parametrize("content", ["{", "[]", '{"users": ["a"], "user_data": {"a": {"x": [[1]], "y": []}}}'])
def test_another_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "leaf/train").mkdir(parents=True)
    (tmp_path / "leaf/train/odd.json").write_text(content)
    with pytest.raises(DataError, match=r"train/odd\.json is none"):
        load(_settings(tmp_path))


def test_users_without_examples_and_one_that_is_odd(tmp_path: Path) -> None:
    some = [([0.0] * 4, 0), ([1.0] * 4, 1.0)]
    _write(tmp_path / "a", {"ann": [], "bob": some, "cid": []}, {"dan": []})
    settings = DataSettings(dataset="leaf", data_root=str(tmp_path / "a"))
    assert input_facts(settings).classes == ("0", "1")
    _write(tmp_path / "b", {"bob": some, "cid": [([0.0] * 4, 0), ([0.0] * 5, 1)]}, {})
    with pytest.raises(DataError, match="example 2 of user cid is another than the first of user bob"):
        load(DataSettings(dataset="leaf", data_root=str(tmp_path / "b")))
    _write(tmp_path / "c", {"bob": [([0.0] * 4, float("nan"))]}, {})
    with pytest.raises(DataError, match="user bob, row 0: nan is no name"):
        load(DataSettings(dataset="leaf", data_root=str(tmp_path / "c")))
