"""Published sets: true formats on small files, absent and damaged files, downloads, and the real sets where present."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from data import DataSettings, load
from data import published as published_module
from data.sources import SOURCES
from data.vision import vision_datasets
from models.errors import SettingError


def _idx(values: NDArray[np.uint8]) -> bytes:
    """The idx format: two zeros, type 8 (unsigned byte), number of dimensions, sizes big-endian, data."""
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()


def _write_idx(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (30, 28, 28), np.uint8), (np.arange(30) % 10).astype(np.uint8)
    for part, rows in (("train", slice(0, 20)), ("t10k", slice(20, 30))):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(_idx(images[rows]))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(_idx(labels[rows]))
    return images, labels


def _settings(name: str, root: Path) -> DataSettings:
    return DataSettings(dataset=name, data_root=str(root))


def _message(name: str, root: Path) -> str:
    with pytest.raises(SettingError) as caught:
        load(_settings(name, root))
    assert caught.value.key == "data-root"
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST/raw"), ("fashion-mnist", "FashionMNIST/raw")])
def test_idx_files(name: str, folder: str, tmp_path: Path) -> None:
    images, labels = _write_idx(tmp_path / folder)
    loaded = load(_settings(name, tmp_path))
    assert loaded.train_examples.values.shape == (20, 1, 28, 28)
    assert np.array_equal(loaded.train_examples.values.numpy()[:, 0], images[:20])
    assert np.array_equal(loaded.test_examples.values.numpy()[:, 0], images[20:])
    assert loaded.train.labels.tolist() == labels[:20].tolist()
    assert loaded.test.labels.tolist() == labels[20:].tolist()
    assert loaded.test.labels.dtype == torch.int64


@pytest.mark.parametrize(("name", "key", "classes"), [("cifar10", "labels", 10), ("cifar100", "fine_labels", 100)])
def test_cifar_files(name: str, key: str, classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = getattr(vision_datasets(), SOURCES[name].loader)  # type: ignore[attr-defined]
    folder = tmp_path / loader.base_folder
    folder.mkdir()
    draw = np.random.default_rng(0)
    pictures: dict[str, NDArray[np.uint8]] = {}

    def write(file: str, content: dict[str, Any]) -> list[str]:
        (folder / file).write_bytes(pickle.dumps(content, protocol=2))
        return [file, hashlib.md5((folder / file).read_bytes()).hexdigest()]

    def batch(file: str) -> list[str]:
        pictures[file] = draw.integers(0, 256, (4, 3, 32, 32), np.uint8)
        return write(file, {"data": pictures[file].reshape(4, 3072), key: [0, classes - 1, 3, 1]})

    monkeypatch.setattr(loader, "train_list", [batch(file) for file, _ in loader.train_list])
    monkeypatch.setattr(loader, "test_list", [batch(file) for file, _ in loader.test_list])
    checksum = write(loader.meta["filename"], {loader.meta["key"]: [str(number) for number in range(classes)]})[1]
    monkeypatch.setattr(loader, "meta", {**loader.meta, "md5": checksum})
    loaded = load(_settings(name, tmp_path))
    train = np.concatenate([pictures[file] for file, _ in loader.train_list])
    assert np.array_equal(loaded.train_examples.values.numpy(), train)
    assert np.array_equal(loaded.test_examples.values.numpy(), pictures[loader.test_list[0][0]])
    assert loaded.test.labels.tolist() == [0, classes - 1, 3, 1]
    assert loaded.train_examples.values.is_contiguous()


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("mnist", ["MNIST/raw/train-images-idx3-ubyte", "MNIST/raw/t10k-labels-idx1-ubyte"]),
        ("fashion-mnist", ["FashionMNIST/raw/train-labels-idx1-ubyte"]),
        ("cifar10", ["cifar-10-batches-py/data_batch_5", "cifar-10-batches-py/test_batch"]),
        ("cifar100", ["cifar-100-python/train", "cifar-100-python/test", "cifar-100-python/meta"]),
    ],
)
def test_absent_and_offline(name: str, wanted: list[str], tmp_path: Path) -> None:
    message = _message(name, tmp_path / "none")
    assert message.startswith(f"data-root = {str(tmp_path / 'none')!r}: allowed is a folder with ")
    assert all(file in message for file in wanted)
    assert "no network" in message
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("offline")
def test_only_what_is_missing_is_named(tmp_path: Path) -> None:
    _write_idx(tmp_path / "MNIST" / "raw")
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    message = _message("mnist", tmp_path)
    assert "t10k-labels" in message
    assert "train-labels" not in message


@pytest.mark.parametrize("damage", ["torn", "empty", "labels"])
def test_damaged_idx_files(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "FashionMNIST" / "raw"
    _write_idx(folder)
    file = folder / "train-images-idx3-ubyte"
    whole = file.read_bytes()
    fewer = _idx(np.zeros((3, 28, 28), np.uint8))
    file.write_bytes({"torn": whole[: len(whole) // 2], "empty": b"", "labels": fewer}[damage])
    assert "FashionMNIST/raw has undamaged files of FashionMNIST" in _message("fashion-mnist", tmp_path)


def test_damaged_cifar_files(tmp_path: Path) -> None:
    source = SOURCES["cifar10"]
    assert isinstance(source, published_module.Published)
    (tmp_path / source.folder).mkdir()
    for name in source.files:
        (tmp_path / source.folder / name).write_bytes(b"")
    assert "undamaged files of CIFAR10" in _message("cifar10", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mean"), [("fashion-mnist", [0.2860]), ("cifar10", [0.4914, 0.4822, 0.4465])])
def test_the_real_sets(name: str, mean: list[float]) -> None:
    root = os.environ.get("FLOTILLA_DATA")
    source = SOURCES[name]
    assert isinstance(source, published_module.Published)
    if root is None or not (Path(root) / source.folder).is_dir():
        pytest.skip(f"FLOTILLA_DATA names no folder with {source.folder}")
    loaded = load(_settings(name, Path(root)))
    assert loaded.test.inputs.shape == (10_000, *source.shape)
    assert torch.bincount(loaded.test.labels).tolist() == [1000] * 10
    torch.testing.assert_close(loaded.statistics[0].flatten() / 255, torch.tensor(mean), atol=1e-4, rtol=0)
    rows = torch.arange(512)
    torch.testing.assert_close(
        loaded.select(rows).inputs, (loaded.train_examples.values[:512] - loaded.statistics[0]) / loaded.statistics[1]
    )
