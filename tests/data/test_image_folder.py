"""The user's own images: layout, order, resizing, and every way to get it wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from data import DataSettings, Task, inspect, load
from models.errors import SettingError

_COLOURS = {"zebra": (255, 0, 0), "ant": (0, 255, 0), "Bee": (0, 0, 255)}


def _make(root: Path) -> DataSettings:
    for part, count in (("train", 3), ("test", 2)):
        for name, colour in _COLOURS.items():
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (10 + number, 7), colour).save(root / part / name / f"{number}.png")
    return DataSettings(dataset="image-folder", data_root=str(root), image_size=4)


def test_layout_order_and_size(tmp_path: Path) -> None:
    settings = _make(tmp_path)
    (tmp_path / "train" / "ant" / "Thumbs.db").write_text("not an image")
    (tmp_path / "train" / ".cache").mkdir()
    images = load(settings)
    assert inspect(settings) == Task(3, (3, 4, 4))
    assert images.classes == 3
    assert (len(images.train), len(images.test)) == (9, 6)
    # sorted(): capitals first.
    assert images.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    expected = [_COLOURS[name] for name in ("Bee", "ant", "zebra")]
    assert images.train_examples.values[::3, :, 2, 2].tolist() == [list(colour) for colour in expected]
    assert images.train.inputs.dtype == torch.float32


def test_every_kind_of_picture_becomes_colour(tmp_path: Path) -> None:
    settings = _make(tmp_path)
    Image.new("L", (5, 5), 9).save(tmp_path / "test" / "ant" / "grey.png")
    Image.new("RGBA", (5, 5), (1, 2, 3, 0)).save(tmp_path / "test" / "ant" / "glass.png")
    palette = Image.new("P", (5, 5))
    palette.putpalette([10, 20, 30] * 256)
    palette.save(tmp_path / "test" / "ant" / "palette.png", transparency=bytes([0, 128]))
    Image.new("RGB", (5, 5), (7, 8, 9)).save(tmp_path / "test" / "ant" / "plain.BMP")
    pixels = load(settings).test_examples
    found = pixels.values[pixels.labels == 1][:, :, 0, 0].tolist()
    assert found == [[0, 255, 0], [0, 255, 0], [1, 2, 3], [9, 9, 9], [10, 20, 30], [7, 8, 9]]


def _message(settings: DataSettings) -> str:
    with pytest.raises(SettingError) as caught:
        load(settings)
    assert caught.value.key == "data-root"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_such_folder(tmp_path: Path) -> None:
    settings = DataSettings(dataset="image-folder", data_root=str(tmp_path / "none"))
    assert "train/<class>/*.png and test/<class>/*.png" in _message(settings)
    with pytest.raises(SettingError):
        inspect(settings)


def test_fewer_than_two_classes(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part / "only").mkdir(parents=True)
    message = _message(DataSettings(dataset="image-folder", data_root=str(tmp_path)))
    assert "at least 2 classes in train (it has 1)" in message


def test_classes_differ(tmp_path: Path) -> None:
    settings = _make(tmp_path)
    (tmp_path / "test" / "wasp").mkdir()
    (tmp_path / "train" / "yak").mkdir()
    assert "same classes in train and test (only one of them has wasp, yak)" in _message(settings)


def test_unreadable_image_is_named(tmp_path: Path) -> None:
    settings = _make(tmp_path)
    whole = (tmp_path / "train" / "Bee" / "0.png").read_bytes()
    (tmp_path / "train" / "ant" / "torn.png").write_bytes(whole[: len(whole) // 2])
    assert "train/ant/torn.png" in _message(settings)
    (tmp_path / "train" / "ant" / "torn.png").write_text("hello")
    assert "train/ant/torn.png" in _message(settings)


def test_class_without_images(tmp_path: Path) -> None:
    settings = _make(tmp_path)
    for file in (tmp_path / "train" / "ant").iterdir():
        file.unlink()
    assert "at least one image in train/ant" in _message(settings)


def test_nothing_to_test_on(tmp_path: Path) -> None:
    settings = _make(tmp_path)
    for file in (tmp_path / "test").glob("*/*.png"):
        file.unlink()
    assert "at least one image in test" in _message(settings)
