"""Data sets of torchvision by name, and a Dataset of somebody's own by import path."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from data import DataError, DataSettings, input_facts, inspect, load, torch_sets
from data.files import Files
from data.sources import SOURCES
from data.torch_sets import own_set
from models.errors import SettingError
from models.registry import following

_DRAWS = np.random.default_rng(0)
_PIXELS = _DRAWS.integers(0, 256, (10, 28, 28), dtype=np.uint8)


class Birds(Dataset[tuple[Any, int]]):
    """Pictures of two sizes, by Pillow."""

    classes = ("owl", "jay")

    def __init__(self, root: str, train: bool = True) -> None:
        self.count = 6 if train else 4
        self.root = root

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return Image.new("RGB", (8 + row, 9), (row, 2 * row, 3)), row % 2


class Numbers(Dataset[tuple[Any, Any]]):
    """Rows in one part; what they are asked for is the sum."""

    def __init__(self, root: str) -> None:
        self.x = torch.arange(30, dtype=torch.float32).reshape(10, 3)

    def __len__(self) -> int:
        return 10

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        return self.x[row], self.x[row].sum()


class Broken(Numbers):
    def __getitem__(self, row: int) -> tuple[Any, Any]:
        if row == 7:
            raise RuntimeError("torn off")
        return self.x[row], row % 2


class Unlike(Numbers):
    def __getitem__(self, row: int) -> tuple[Any, Any]:
        return self.x[row, : 2 + row % 2], row % 2


class Infinite(Numbers):
    def __getitem__(self, row: int) -> tuple[Any, Any]:
        return self.x[row] / (row - 3), row % 2


class Negative(Numbers):
    def __getitem__(self, row: int) -> tuple[Any, Any]:
        return self.x[row], row % 2 - (row == 4)


class Good(Numbers):
    def __getitem__(self, row: int) -> tuple[Any, Any]:
        return self.x[row], row % 2


class Mislabelled(Birds):
    """What it calls targets are no classes of its items."""

    made = 0

    def __init__(self, root: str, train: bool = True) -> None:
        super().__init__(root, train)
        type(self).made += 1
        self.targets = [1] * self.count


class Versioned(Birds):
    """It says when its pictures are others."""

    version, asked = "1", 0

    def __getitem__(self, row: int) -> tuple[Any, int]:
        type(self).asked += 1
        return super().__getitem__(row)


class Letters(Birds):
    """As torchvision's EMNIST is called."""

    def __init__(self, root: str, kind: str = "letters", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)


class Empty(Numbers):
    def __len__(self) -> int:
        return 0


class Stream(IterableDataset[int]):
    pass


def _settings(name: str, **more: Any) -> DataSettings:
    return DataSettings(dataset=f"tests.data.test_torch_sets:{name}", data_root="/tmp", **more)


def test_pictures_of_ones_own(tmp_path: Path) -> None:
    settings = _settings("Birds", image_size=4)
    data = load(settings)
    assert (len(data.train), len(data.test), data.task.input_shape) == (6, 4, (3, 4, 4))
    assert data.train_examples.values[:, :, 2, 2].tolist() == [[row, 2 * row, 3] for row in range(6)]
    facts = input_facts(settings)
    assert facts.classes == ("owl", "jay")
    own = DataSettings(dataset=settings.dataset, data_root=str(tmp_path), image_size=4, partition="own")
    assert input_facts(own).mean == pytest.approx(facts.mean)


def test_arguments_go_on_to_the_class_that_it_is_made_from() -> None:
    data = load(_settings("Letters", image_size=4))
    assert (len(data.train), len(data.test)) == (6, 4)


def test_labels_of_ones_own_are_what_items_say_and_every_part_is_made_once() -> None:
    settings = _settings("Mislabelled", image_size=4)
    assert load(settings).train_examples.labels.tolist() == [0, 1] * 3
    assert input_facts(settings).classes == ("owl", "jay")
    assert Mislabelled.made == 2


def test_a_label_below_zero_is_not_the_last_class() -> None:
    facts = input_facts(_settings("Good"))
    with pytest.raises(DataError, match="row 4 of its train part has -1"):
        load(_settings("Negative", partition="own"), facts)


def test_rows_in_one_part_to_predict_numbers() -> None:
    data = load(_settings("Numbers", task="regression"))
    assert (len(data.train), len(data.test), data.task.classes) == (8, 2, 1)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Broken", "item 7 of its train part: torn off"),
        ("Unlike", r"inputs of one shape, \[2\]; item 1"),
        ("Infinite", "row 3 of its train part"),
        ("Negative", "row 4 of its train part has -1"),
        ("Empty", "examples of .*Empty; its train part has none"),
        ("Numbers", "a class is a whole number"),
    ],
)
def test_what_is_wrong_is_named(name: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        load(_settings(name))


def test_a_device_follows_what_it_allows() -> None:
    with following(["my_lab.*"]), pytest.raises(SettingError, match="allow="):
        SOURCES["tests.data.test_torch_sets:Birds"]
    with pytest.raises(SettingError, match=r"torch\.utils\.data\.Dataset"):
        SOURCES["tests.data.test_torch_sets:Stream"]
    assert own_set(Birds(".")) is None


def test_torchvision_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "KMNIST/raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 10), ("t10k", 4)):
        head = struct.pack(">IIII", 0x803, count, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(head + _PIXELS[:count].tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + bytes(range(count)))
    settings = DataSettings(dataset="torchvision:KMNIST", data_root=str(tmp_path))
    data = load(settings)
    assert (len(data.train), len(data.test), data.task.input_shape) == (10, 4, (1, 28, 28))
    np.testing.assert_array_equal(data.train_examples.values[:, 0].numpy(), _PIXELS)
    assert input_facts(settings).classes[2] == "su"


def test_torchvision_with_arguments_of_two_classes(tmp_path: Path) -> None:
    folder = tmp_path / "EMNIST/raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 10), ("test", 4)):
        head, name = struct.pack(">IIII", 0x803, count, 28, 28), folder / f"emnist-letters-{part}"
        Path(f"{name}-images-idx3-ubyte").write_bytes(head + _PIXELS[:count].tobytes())
        Path(f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + bytes(range(1, count + 1)))
    data = load(DataSettings(dataset="torchvision:EMNIST(split=letters)", data_root=str(tmp_path)))
    assert (len(data.train), len(data.test), data.task.classes) == (10, 4, 27)


def test_torchvision_picture_by_picture_and_from_one_folder(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / "eurosat/2750" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (7, 7), (number, 9, 9)).save(tmp_path / "eurosat/2750" / name / f"{number}.jpg")
    settings = DataSettings(dataset="torchvision:EuroSAT", data_root=str(tmp_path), image_size=4)
    data = load(settings)
    assert (len(data.train), len(data.test), inspect(settings).input_shape) == (8, 2, (3, 4, 4))
    assert input_facts(settings).classes == ("x", "y")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("MNISTT", "one of .*MNIST"),
        ("MNIST(download=true)", "arguments but download"),
        ("MNIST(colour=red)", "has no colour"),
        ("MNIST", "(?i)not found"),
        ("MNIST(", "torchvision:NAME"),
    ],
)
def test_torchvision_says_what_is_missing(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        load(DataSettings(dataset=f"torchvision:{name}", data_root=str(tmp_path)))


def test_nothing_but_the_run_decides_where_the_data_are() -> None:
    with pytest.raises(SettingError, match="root"):
        SOURCES["torchvision:MNIST(root=elsewhere)"].read(Files(root=Path("/tmp")))


def test_pictures_of_a_version_are_decoded_once_on_a_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLOTILLA_CACHE", str(tmp_path))
    source: Any = SOURCES["tests.data.test_torch_sets:Versioned"]
    decoded = []
    for version in ("1", "1", "2"):
        monkeypatch.setattr(Versioned, "version", version)
        monkeypatch.setattr(Versioned, "asked", 0)
        torch_sets._read.cache_clear()
        train, _, _ = torch_sets._read(source, _settings("Versioned").files)
        found = train.held(torch.arange(6))[0]
        assert found[:6, 0, 2, 2].tolist() == list(range(6))
        decoded.append(Versioned.asked)
    assert decoded[1] == decoded[0] - 6 == decoded[2] - 6  # labels are asked for every time
