"""What is decoded is kept on disk: once, whole, bounded, and never of other files."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from data import DataSettings, decoded, disk_cache, load
from data.disk_cache import Key

ROOT = Path(__file__).resolve().parents[2]
_SHAPE = (9, 2, 3)
_VALUES = np.arange(54, dtype=np.uint8).reshape(_SHAPE)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLOTILLA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/decoded"


def _key(tmp_path: Path, content: str = "one", how: object = "here") -> Key:
    (tmp_path / "source").write_text(content)
    return Key.of(how, [tmp_path / "source"])


def _counted() -> tuple[list[int], Callable[[NDArray[np.int64]], NDArray[np.uint8]]]:
    made = list[int]()

    def make(rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        made.extend(rows.tolist())
        return _VALUES[rows]

    return made, make


def _held(key: Key, rows: list[int], make: Any) -> torch.Tensor | None:
    return decoded.held(key, _SHAPE, np.dtype(np.uint8), np.array(rows), make)


def test_each_is_decoded_once(tmp_path: Path, cache: Path) -> None:
    key, (made, make) = _key(tmp_path), _counted()
    for rows in ([4, 2], [2, 4, 8, 8], [8, 0]):
        found = _held(key, rows, make)
        assert found is not None
        np.testing.assert_array_equal(found[rows].numpy(), _VALUES[rows])
    assert sorted(made) == [0, 2, 4, 8]
    assert len(list(cache.iterdir())) == 1


def test_other_files_are_another_key_and_the_old_one_goes(tmp_path: Path, cache: Path) -> None:
    made, make = _counted()
    _held(_key(tmp_path), [1], make)
    elsewhere = _key(tmp_path, how="there")
    _held(elsewhere, [1], make)
    changed = _key(tmp_path, "longer")
    _held(changed, [1], make)
    assert made == [1, 1, 1]
    assert {file.name for file in cache.iterdir()} == {elsewhere.name("rows"), changed.name("rows")}


def test_half_an_example_is_none(tmp_path: Path, cache: Path) -> None:
    key, (made, make) = _key(tmp_path), _counted()

    def torn(rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        raise OSError(errno.ENOSPC, "no space")

    assert _held(key, [3], torn) is None  # who asks decodes into memory
    found = _held(key, [3], make)
    assert found is not None
    assert made == [3]


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, make = _counted()
    keys = [_key(tmp_path, how=number) for number in range(3)]
    for number, key in enumerate(keys[:2]):
        _held(key, list(range(9)), make)
        os.utime(cache / key.name("rows"), (number, number))
    used = sum(512 * file.stat().st_blocks for file in cache.iterdir())
    monkeypatch.setattr(disk_cache, "MOST", used + 60)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**40))
    assert _held(keys[2], [0, 1], make) is not None
    assert _held(keys[2], list(range(9)), make) is not None
    assert not (cache / keys[0].name("rows")).exists()
    monkeypatch.setattr(disk_cache, "MOST", 10)
    before = sorted(cache.iterdir())
    assert _held(_key(tmp_path, how="large"), list(range(9)), make) is None
    assert set(before) <= set(cache.iterdir())  # in vain nothing is thrown away


def test_what_another_process_removes_meanwhile_does_not_matter(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _held(_key(tmp_path), [1], _counted()[1]) is not None
    there = [*cache.iterdir(), cache / "gone"]
    monkeypatch.setattr(Path, "iterdir", lambda _: iter(there))
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    disk_cache.make_room(1)


def test_what_is_read_was_used(tmp_path: Path, cache: Path) -> None:
    key, made = _key(tmp_path), np.zeros(3, dtype=np.uint8)
    disk_cache.array(key, "headers", lambda: made, 3)
    file = cache / key.name("headers")
    os.utime(file, (1, 1))
    disk_cache.array(key, "headers", lambda: made, 3)
    assert file.stat().st_mtime > 1


def test_what_decodes_otherwise_is_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [_key(tmp_path)]
    for name in ("PIL.__version__", "data.picture._FORMAT"):
        monkeypatch.setattr(name, "0")
        keys.append(Key.of("here", [tmp_path / "source"]))
    assert len({key.content for key in keys}) == 3
    assert len({key.place for key in keys}) == 1


def test_a_folder_that_others_can_write_to_is_not_believed(tmp_path: Path, cache: Path) -> None:
    assert _held(_key(tmp_path), [1], _counted()[1]) is not None
    assert cache.stat().st_mode & 0o777 == 0o700
    cache.chmod(0o777)
    assert _held(_key(tmp_path), [1], _counted()[1]) is None


@pytest.mark.parametrize("told", ["none", "/dev/null/nowhere"])
def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv("FLOTILLA_CACHE", told)
    assert _held(_key(tmp_path), [1], _counted()[1]) is None


def _pictures(root: Path) -> DataSettings:
    draws = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True)
            for number in range(4):
                Image.fromarray(draws.integers(0, 256, (6, 6), dtype=np.uint8)).save(
                    root / part / name / f"{number}.png"
                )
    return DataSettings(dataset="image-folder", data_root=str(root), image_size=4, image_channels=1)


@pytest.mark.slow
def test_a_second_process_opens_no_picture(tmp_path: Path, cache: Path) -> None:
    """The pictures are replaced by others of the same size and time, which nobody can decode."""
    settings = _pictures(tmp_path / "pictures")
    wanted = load(settings).train.inputs
    test = load(settings).test.inputs
    for file in (tmp_path / "pictures").rglob("*.png"):
        before = file.stat()
        file.write_bytes(b"x" * before.st_size)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    code = (
        "import sys, torch; from data import DataSettings, load; d = load(DataSettings(dataset='image-folder',"
        " data_root=sys.argv[1], image_size=4, image_channels=1));"
        " torch.save([d.train.inputs, d.test.inputs], sys.argv[2])"
    )
    command = [sys.executable, "-c", code, settings.data_root, str(tmp_path / "found.pt")]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    assert torch.equal(found[0], wanted)
    assert torch.equal(found[1], test)


def test_kept_or_not_the_values_are_the_same(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _pictures(tmp_path / "pictures")
    kept = load(settings)
    monkeypatch.setenv("FLOTILLA_CACHE", "none")
    (tmp_path / "again").symlink_to(tmp_path / "pictures")
    plain = load(
        DataSettings(dataset="image-folder", data_root=str(tmp_path / "again"), image_size=4, image_channels=1)
    )
    assert torch.equal(kept.train.inputs, plain.train.inputs)
    assert kept.statistics[0].tolist() == plain.statistics[0].tolist()
    assert kept.statistics[1].tolist() == plain.statistics[1].tolist()
