"""The user's own pictures: layouts, order, depth, clients, what is passed over, and every way to get it wrong."""

from __future__ import annotations

import os
from dataclasses import replace
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data import DataError, DataSettings, Task, input_facts, inspect, load, node_data, shards
from data.picture import pixels, read_picture
from models.errors import SettingError

_COLOURS = {"zebra": (255, 0, 0), "ant": (0, 255, 0), "Bee": (0, 0, 255)}


def _make(root: Path) -> DataSettings:
    for part, count in (("train", 3), ("test", 2)):
        for name, colour in _COLOURS.items():
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (10 + number, 7), colour).save(root / part / name / f"{number}.png")
    return DataSettings(dataset="image-folder", data_root=str(root), image_size=4)


def _grey(root: Path, *values: int) -> None:
    root.mkdir(parents=True)
    for number, value in enumerate(values):
        Image.new("L", (4, 4), value).save(root / f"{number}.png")


def _settings(root: Path, **more: Any) -> DataSettings:
    return DataSettings(dataset="image-folder", data_root=str(root), image_size=4, **more)


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


@pytest.mark.parametrize("test", ["test", "val"])
def test_layouts(tmp_path: Path, test: str) -> None:
    for part in ("train", test):
        for number, name in enumerate(("a", "b")):
            _grey(tmp_path / part / name / "deep" / "deeper", *range(100 * number, 100 * number + 3))
    found = load(_settings(tmp_path, image_channels=1))
    assert (len(found.train), len(found.test)) == (6, 6)


def test_what_is_for_tuning_is_left_alone(tmp_path: Path) -> None:
    for part, value in (("train", 1), ("test", 2), ("val", 3)):
        for name in ("a", "b"):
            _grey(tmp_path / part / name, value)
    found = load(_settings(tmp_path, image_channels=1))
    assert {*found.train_examples.values.flatten().tolist(), *found.test_examples.values.flatten().tolist()} == {1, 2}


def test_one_folder_of_classes_is_split_and_always_alike(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b")):
        _grey(tmp_path / name, *range(100 * number, 100 * number + 10))
    found = load(_settings(tmp_path, image_channels=1))
    again = load(_settings(tmp_path, image_channels=1, seed=2))
    assert (len(found.train), len(found.test), found.test.labels.tolist()) == (16, 4, [0, 0, 1, 1])
    assert torch.equal(found.test.inputs, again.test.inputs)
    everything = torch.cat([found.train_examples.values, found.test_examples.values])[:, 0, 0, 0]
    assert sorted(everything.tolist()) == [*range(10), *range(100, 110)]


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


def test_sixteen_bits_keep_their_levels(tmp_path: Path) -> None:
    """A depth camera's pictures: 2,400 of 65,536 levels, which eight bits would make ten of, and one bit two."""
    for name, start in (("near", 0), ("far", 2000)):
        (tmp_path / name).mkdir()
        for number in range(5):
            levels = np.arange(start, start + 16, dtype=np.uint16).reshape(4, 4) + 100 * number
            Image.fromarray(levels).save(tmp_path / name / f"{number}.{'png' if number else 'tif'}")
    found = load(_settings(tmp_path, image_channels=1))
    values = torch.cat([found.train_examples.values, found.test_examples.values])
    assert values.dtype == torch.float32
    assert len(set(values.flatten().tolist())) == 160
    assert (values * 257).round().max() == 2415


def test_white_is_white_whatever_the_depth() -> None:
    grey8 = pixels(Image.new("L", (4, 4), 255), (1, 4, 4), "stretch")
    for wide in (np.full((4, 4), 65535, np.uint16), np.ones((4, 4), np.float32)):
        assert np.array_equal(pixels(Image.fromarray(wide), (1, 4, 4), "stretch"), grey8)


@pytest.mark.parametrize(("fit", "top", "left"), [("stretch", 200, 90), ("pad", 0, 90), ("crop", 200, 200)])
def test_sides_are_kept_where_wanted(fit: str, top: int, left: int) -> None:
    wide = Image.new("L", (32, 8), 200)
    wide.paste(90, (0, 0, 4, 8))
    found = pixels(wide, (1, 16, 16), fit)[0]
    assert (found[8, 12], found[0, 12], found[8, 0]) == (200, top, left)


def test_what_is_passed_over_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = _make(tmp_path)
    folder = tmp_path / "train" / "ant"
    (folder / "notes.txt").write_text("no picture")
    os.mkfifo(folder / "pipe.png")
    Image.new("1", (8192, 4097)).save(folder / "poster.png")
    getLogger("flwr").addHandler(caplog.handler)
    try:
        found = load(settings)
    finally:
        getLogger("flwr").removeHandler(caplog.handler)
    assert len(found.train) == 9
    for why in ("1 of more than", "1 that are no regular files", "1 that are no pictures by their names"):
        assert why in caplog.text


@pytest.mark.parametrize("way", ["folder", "{client}_*.png"])
def test_clients_by_folder_or_by_name(tmp_path: Path, way: str) -> None:
    for person in ("ada", "bob"):
        for number, name in enumerate(("x", "y")):
            folder = tmp_path / "train" / (f"{person}/{name}" if way == "folder" else name)
            folder.mkdir(parents=True, exist_ok=True)
            for count in range(4):
                value = 100 * (person == "bob") + 20 * number + count
                Image.new("L", (4, 4), value).save(folder / f"{person}_{count}.png")
    settings = _settings(tmp_path, image_channels=1, client_from=way, partition="natural", num_clients=2)
    data, rows = load(settings), shards(settings)
    of_client = [data.train_examples.select(torch.from_numpy(part)).values[:, 0, 0, 0] for part in rows]
    assert of_client[0].max() < 100 <= of_client[1].min()


@pytest.mark.parametrize("cache", ["none", "cache"])
def test_a_client_decodes_its_own_pictures_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str) -> None:
    monkeypatch.setenv("FLOTILLA_CACHE", "none")
    for number, name in enumerate(("a", "b")):
        _grey(tmp_path / name, *range(100 * number, 100 * number + 20))
    settings = _settings(tmp_path, image_channels=1, num_clients=8)
    facts, read = input_facts(settings), list[Path]()

    def reading(file: Path, *rest: Any) -> Any:
        read.append(file)
        return read_picture(file, *rest)

    monkeypatch.setattr("data.pil_items.read_picture", reading)
    monkeypatch.setenv("FLOTILLA_CACHE", cache if cache == "none" else str(tmp_path / cache))
    data = node_data(settings, 3, facts)
    assert len(read) == len(set(read)) == len(data.train) + len(data.test) == 4


def _message(settings: DataSettings) -> str:
    with pytest.raises(SettingError) as caught:
        assert load(settings).train
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
    assert "at least 2 classes (it has 1)" in message


def test_every_class_needs_a_picture_to_train_on(tmp_path: Path) -> None:
    settings = _make(tmp_path)
    (tmp_path / "test" / "wasp").mkdir()
    for file in (tmp_path / "train" / "ant").iterdir():
        file.unlink()
    assert "(ant, wasp has none)" in _message(settings)


def test_unreadable_image_is_named(tmp_path: Path) -> None:
    settings = _make(tmp_path)
    whole = (tmp_path / "train" / "Bee" / "0.png").read_bytes()
    (tmp_path / "train" / "ant" / "torn.png").write_bytes(whole[: len(whole) // 2])
    assert "train/ant/torn.png" in _message(settings)
    (tmp_path / "train" / "ant" / "torn.png").write_text("hello")
    assert "train/ant/torn.png" in _message(settings)


def test_a_damaged_picture_is_named_here_and_not_elsewhere(tmp_path: Path) -> None:
    settings = replace(_make(tmp_path), partition="own")
    (tmp_path / "train" / "ant" / "torn.png").write_bytes((tmp_path / "train" / "Bee" / "0.png").read_bytes()[:40])
    with pytest.raises(DataError) as caught:
        node_data(settings, 0)
    assert "train/ant/torn.png" in str(caught.value)
    assert "torn" not in caught.value.told


@pytest.mark.parametrize(
    ("key", "value"), [("image_channels", 2), ("client_from", "client_*"), ("client_from", "{client}{client}")]
)
def test_what_cannot_be_set(key: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=key.replace("_", "-")):
        _settings(tmp_path, **{key: value})


def test_parts_are_known_with_capitals_and_what_lies_beside_is_said(tmp_path: Path, said: list[str]) -> None:
    for part in ("Train", "TESTING", "holdout"):
        for name, value in (("a", 10), ("b", 200)):
            _grey(tmp_path / part / name, value, value + 1)
    (tmp_path / "Train" / "loose.png").write_bytes((tmp_path / "Train/a/0.png").read_bytes())
    data = load(_settings(tmp_path, image_channels=1))
    assert (data.classes, len(data.train), len(data.test)) == (2, 4, 4)
    assert "1 folders beside train and test (holdout)" in said[0]
    assert "1 in no class's folder" in said[0]


def test_a_link_that_leads_back_makes_no_second_picture(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _grey(tmp_path / name, 1, 2, 3)
        (tmp_path / name / "again").symlink_to(tmp_path / name)
    assert len(load(_settings(tmp_path)).train_examples) + len(load(_settings(tmp_path)).test_examples) == 6


def test_a_class_has_one_name_in_every_spelling_of_unicode(tmp_path: Path) -> None:
    """File systems of other makers take letters apart."""
    for root, name in (("one", "caf\u00e9"), ("other", "cafe\u0301")):
        for kind in (name, "bar"):
            _grey(tmp_path / root / kind, 1, 2)
    facts = input_facts(_settings(tmp_path / "one"))
    device = _settings(tmp_path / "other", partition="own")
    assert node_data(device, 0, facts).labels == (0, 1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_has_black_and_white(mode: str, channels: int) -> None:
    white = Image.new("L", (4, 4), 255)
    white.paste(0, (0, 0, 2, 4))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(white).astype(np.uint16) * 257)
    elif mode == "PA":
        image = white.convert("P").convert(mode)
    elif mode in ("CMYK", "YCbCr", "HSV"):
        image = white.convert("RGB").convert(mode)
    else:
        image = white.convert(mode)
    found = pixels(image, (channels, 4, 4), "stretch")
    assert (found[:, 0, 0] <= 2).all()
    assert (found[:, 0, 3] >= 253).all()


def test_depths_of_tiff(tmp_path: Path) -> None:
    """Of 16 and 32 bits, with and without a sign; floats are 0 to 1, and others are refused by name."""
    for dtype, white in ((np.uint16, 2**16 - 1), (np.int16, 2**15 - 1), (np.uint32, 2**32 - 1), (np.int32, 2**31 - 1)):
        file = tmp_path / f"{dtype.__name__}.tif"
        _tiff(file, np.array([[0, white // 2], [white, white]], dtype=dtype))
        found = read_picture(file, (1, 2, 2), "stretch")[0]
        assert np.abs(found - np.array([[0, 127.5], [255, 255]])).max() < 0.1
    Image.fromarray(np.array([[0.0, 200.0], [0, 0]], dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match="floats from 0 to 200; allowed are 0"):
        read_picture(tmp_path / "float.tif", (1, 2, 2), "stretch")


def _tiff(file: Path, values: np.ndarray[Any, Any]) -> None:
    """A grey TIFF without compression, little-endian, as Pillow does not write all of them."""
    height, width = values.shape
    kind = 2 if np.issubdtype(values.dtype, np.signedinteger) else 1
    fields = [(256, width), (257, height), (258, 8 * values.itemsize), (259, 1), (262, 1), (273, 8)]
    fields += [(277, 1), (278, height), (279, values.nbytes), (339, kind)]
    content = values.astype(values.dtype.newbyteorder("<")).tobytes()
    entries = b"".join(
        np.array([tag, 3], "<u2").tobytes() + np.array([1, value], "<u4").tobytes() for tag, value in fields
    )
    head = b"II*\0" + np.array([8 + len(content)], "<u4").tobytes()
    file.write_bytes(head + content + np.array([len(fields)], "<u2").tobytes() + entries + bytes(4))


def test_the_first_frame_counts_and_a_picture_is_turned_as_it_was_taken(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), value) for value in (250, 10)]
    frames[0].save(tmp_path / "a.GIF", save_all=True, append_images=frames[1:])
    assert read_picture(tmp_path / "a.GIF", (1, 4, 4), "stretch").min() == 250
    image = Image.new("L", (4, 4), 0)
    image.paste(255, (0, 0, 4, 2))
    tags = Image.Exif()
    tags[274] = 6  # a quarter turn
    image.save(tmp_path / "a.jpg", exif=tags, quality=95)
    found = read_picture(tmp_path / "a.jpg", (1, 4, 4), "stretch")[0]
    assert found[:, 3].min() > 250
    assert found[:, 0].max() < 5
