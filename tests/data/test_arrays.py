"""Arrays of a file or a folder, with or without a client each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data import DataError, DataSettings, Examples, input_facts, inspect, load, shards
from data.unsplit import with_test_part

_DRAWS = np.random.default_rng(0)
X = _DRAWS.integers(0, 256, (12, 6, 5), dtype=np.uint8)
Y = np.arange(12) % 3


def _settings(root: Path, **more: Any) -> DataSettings:
    return DataSettings(dataset="npz:a.npz", data_root=str(root), **more)


def test_pictures_with_a_client_each(tmp_path: Path) -> None:
    who = np.array(["ann", "bob", "cid"] * 4)
    np.savez(tmp_path / "a.npz", x_train=X, y_train=Y, client_train=who, x_test=X[:5], y_test=Y[:5])
    settings = _settings(tmp_path, partition="natural", num_clients=3)
    data = load(settings)
    assert (data.task.classes, data.task.input_shape) == (3, (1, 6, 5))
    assert len(data.test) == 5
    assert [part.tolist() for part in shards(settings)] == [list(range(k, 12, 3)) for k in range(3)]
    np.testing.assert_array_equal(data.train_examples.values[:, 0].numpy(), X)


@pytest.mark.parametrize(
    ("x", "shape"),
    [
        (np.zeros((12, 7)), (7,)),
        (np.zeros((12, 3, 20), dtype=np.float32), (3, 20)),
        (np.zeros((12, 8, 9, 3), dtype=np.uint8), (3, 8, 9)),
        (np.zeros((12, 3, 8, 9), dtype=np.uint8), (3, 8, 9)),
        (np.zeros((12, 6, 5), dtype=np.uint8), (1, 6, 5)),
    ],
)
def test_shapes(tmp_path: Path, x: np.ndarray[Any, Any], shape: tuple[int, ...]) -> None:
    np.savez(tmp_path / "a.npz", x=x, y=Y)
    assert inspect(_settings(tmp_path)).input_shape == shape


def test_a_folder_of_arrays_is_the_same(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    (tmp_path / "b").mkdir()
    np.save(tmp_path / "b" / "x.npy", X)
    np.save(tmp_path / "b" / "y.npy", Y)
    other = DataSettings(dataset="npz:b", data_root=str(tmp_path))
    pair = [load(settings).train.inputs for settings in (_settings(tmp_path), other)]
    assert bool((pair[0] == pair[1]).all())


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": X}, "no array y; it has x"),
        ({"images": X, "labels": Y}, "no array x; it has images, labels"),
        ({"x": X, "y": Y, "x_test": X}, "no array y_test"),
        (
            {"x": X, "y": Y, "x_test": X[:, :5], "y_test": Y},
            "inputs of 1 x 6 x 5; those of its test part are 1 x 5 x 5",
        ),
        ({"x": X, "y": np.where(Y == 2, np.nan, Y)}, "array y, row 2: a value is not finite"),
        ({"x": X, "y": Y, "client": np.full(12, np.inf)}, "array client of the train part, row 0"),
        ({"x": X, "y": np.eye(3)[Y]}, r"array y of the train part has shape \[12, 3\], and a class each"),
        ({"x": X, "y": np.array(3)}, "."),
        ({"x": np.array(3), "y": Y}, r"array x has shape \[\]"),
        ({"x": X.astype(complex), "y": Y}, "array x is complex128, and numbers are wanted"),
        ({"x": np.full((12, 2), 1e300), "y": Y}, "array x of the train part, row 0: a value is not finite"),
        ({"x": X, "y": np.array([{}] * 12, dtype=object)}, "Object arrays|allow_pickle"),
        ({"x": X, "y": Y[:5]}, "12 inputs, and 5 in array y"),
        ({"x": np.full((12, 2), np.nan), "y": Y}, "array x of the train part, row 0: a value is not finite"),
        ({"x": np.array([{}] * 12, dtype=object), "y": Y}, "Object arrays|allow_pickle"),
        ({"x": np.zeros(12), "y": Y}, r"array x has shape \[12\]"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=said):
        load(_settings(tmp_path))


def test_numbers_that_devices_own(tmp_path: Path) -> None:
    x = _DRAWS.normal(size=(12, 3)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x, y=np.stack([x[:, 0], x[:, 1]] * 6, 1))
    facts = input_facts(_settings(tmp_path, partition="own", task="regression"))
    assert facts.task == "regression"
    assert facts.classes == tuple(map(str, range(12)))  # outputs, in their order
    assert facts.mean == pytest.approx(x.mean(0).tolist(), abs=1e-6)
    data = load(_settings(tmp_path, partition="own", task="regression"), facts)
    np.testing.assert_array_equal(data.train_examples.labels[:, 1].numpy(), x[:, 1])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_compressed_or_not_is_the_same(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "a.npz", x=X, y=Y, other=np.array(["not", "looked", "at"]))
    np.testing.assert_array_equal(load(_settings(tmp_path)).train_examples.values.sum(), _kept(X).sum())


def _kept(x: np.ndarray[Any, Any]) -> Any:
    """What is left of them for training, where every fifth of the classes in order is for testing."""
    rows = with_test_part(Examples(torch.from_numpy(x), torch.from_numpy(Y)), Examples(torch.empty(0), torch.empty(0)))
    return rows[0].values.numpy()


@pytest.mark.parametrize("place", ["magic", "length"])
def test_what_is_damaged_is_no_array(tmp_path: Path, place: str) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    at = content.index(b"\x93NUMPY") if place == "magic" else content.index(b"(12, 6, 5)")
    content[at : at + 10] = b"(99, 6, 5)" if place == "length" else b"x" * 10
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz"):
        load(_settings(tmp_path))


def test_what_is_no_archive_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04torn")
    with pytest.raises(DataError, match=r"a\.npz"):
        load(_settings(tmp_path))


@pytest.mark.parametrize(
    ("y", "names"),
    [
        (np.array(["b", "a", "c"] * 4), ("a", "b", "c")),
        (np.array([b"b", b"a", b"c"] * 4), ("a", "b", "c")),
        (np.array([10.0, 2.0, 2.5] * 4), ("2", "2.5", "10")),
        (np.array([True, False, False] * 4), ("False", "True")),
        (np.array([[3], [1], [2]] * 4, dtype=">i2"), ("1", "2", "3")),
    ],
)
def test_labels_of_every_type_have_names(tmp_path: Path, y: np.ndarray[Any, Any], names: tuple[str, ...]) -> None:
    np.savez(tmp_path / "a.npz", x=X.astype(np.float16).reshape(12, -1), y=y, client=y.reshape(-1))
    facts = input_facts(_settings(tmp_path, partition="natural", num_clients=2))
    assert facts.classes == names


def test_a_device_with_inputs_of_another_shape_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    facts = input_facts(_settings(tmp_path))
    np.savez(tmp_path / "a.npz", x=np.zeros((12, 9, 9), dtype=np.uint8), y=Y)
    with pytest.raises(DataError, match="inputs of 1 x 6 x 5") as caught:
        load(_settings(tmp_path, partition="own"), facts)
    assert caught.value.told == "its inputs are 1 x 9 x 9, not 1 x 6 x 5"
