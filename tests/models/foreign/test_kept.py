"""Exported graphs on disk: what is found there is what would be exported, and only what can be believed is."""

from __future__ import annotations

import importlib
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from models.cache_folder import VARIABLE
from models.foreign import kept, stored
from models.foreign.axes import find_axes
from models.foreign.part import build_part
from models.foreign.stored import NotStorable, from_bytes, to_bytes
from models.foreign.trace import follow
from tests.models.foreign.traced import NETS, example, exported_once, found_in

HERE = "tests.models.foreign.nets"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path / "networks"


@pytest.mark.parametrize("net", ["edge", "residual", *(pytest.param(one, marks=pytest.mark.slow) for one in NETS)])
def test_what_is_read_is_the_same_network(net: str) -> None:
    read = find_axes(follow(*from_bytes(to_bytes(*exported_once(net)))))
    found = found_in(net)
    assert read.fingerprint == found.fingerprint
    one, other = build_part(read, {}), build_part(found, {})
    assert list(one.state_dict()) == list(other.state_dict())
    draws = torch.Generator().manual_seed(0)
    state = {name: torch.rand(tensor.shape, generator=draws) for name, tensor in one.state_dict().items()}
    for part in (one, other):
        part.load_state_dict(state)
    for training in (True, False):
        torch.manual_seed(0)  # of dropout
        expected = other.train(training)(example(net))
        torch.manual_seed(0)
        assert torch.equal(one.train(training)(example(net)), expected)


@pytest.mark.slow
def test_a_network_is_found_again_and_old_ones_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.write("one", HERE, *exported_once("edge"))
    assert kept.read("one") is not None
    assert kept.read("other") is None
    monkeypatch.setattr(kept, "_FILES", 2)
    for name in ("two", "three"):
        kept.write(name, HERE, *exported_once("edge"))
    assert sorted(file.name for file in folder.iterdir()) == ["three", "two"]
    assert folder.stat().st_mode & 0o777 == 0o700


def test_nothing_is_kept_where_nobody_wants_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(VARIABLE, "none")
    kept.write("one", HERE, *exported_once("edge"))
    assert (kept.read("one"), list(tmp_path.iterdir())) == (None, [])


def test_a_constant_of_another_file_counts(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_width.py").write_text("WIDTH = 8\n")
    (tmp_path / "my_factory.py").write_text("from my_width import WIDTH\n")
    try:
        importlib.import_module("my_factory")
        kept.write("one", "my_factory", *exported_once("edge"))
        assert kept.read("one") is not None
        (tmp_path / "my_width.py").write_text("WIDTH = 16\n")
        assert kept.read("one") is None
    finally:
        for name in ("my_factory", "my_width"):
            sys.modules.pop(name, None)


def test_looking_for_a_source_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package/__init__.py").write_text("raise RuntimeError\n")
    (tmp_path / "my_package/layers.py").write_text("")
    assert len(kept._digest("my_package.layers")) == 64
    with pytest.raises(ImportError):
        kept._digest("my_package.layers.more")


def _factory(*arguments: Any, **named: Any) -> torch.nn.Module:
    return torch.nn.Identity()


def test_a_partial_is_of_the_module_of_its_function(folder: Path) -> None:
    def of(*arguments: Any, **named: Any) -> tuple[str, str]:
        return kept.made_by(partial(partial(_factory, *arguments), **named))

    assert of(1, wide=2)[0] == _factory.__module__
    assert of(1, wide=2) == of(1, wide=2)
    assert len({of(1, wide=2), of(1, wide=3), of(2, wide=2), kept.made_by(_factory)}) == 4
    assert of(block=torch.nn.ReLU) == ("", "")
    for nowhere in ("", "functools", "no.such.module"):
        kept.write("one", nowhere, *exported_once("edge"))
        assert kept.read("one") is None


def _damaged(data: bytes) -> bytes:
    return data[:-4] + bytes(byte ^ 1 for byte in data[-4:])


def _told(data: bytes, change: Any) -> bytes:
    head, _, rest = data.partition(b"\n")
    told = json.loads(head)
    change(told)
    return json.dumps(told).encode() + b"\n" + rest


@pytest.mark.parametrize(
    "change",
    [
        _damaged,
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: _told(data, lambda told: told["sources"].update({HERE: "0" * 64})),
        lambda data: _told(data, lambda told: told["sources"].update({"no.such.module": "0" * 64})),
        lambda data: _told(data, lambda told: told["versions"].update({"torch": "1.0"})),
        lambda data: data.replace(b"aten.relu.default", b"aten.gelu.default"),
    ],
    ids=["damaged", "half", "empty", "other source", "lost source", "other version", "other operation"],
)
def test_what_cannot_be_believed_is_not_found(folder: Path, change: Any) -> None:
    kept.write("one", HERE, *exported_once("edge"))
    file = folder / "one"
    file.write_bytes(change(file.read_bytes()))
    assert kept.read("one") is None


def test_a_folder_that_others_can_write_to_is_not_believed(folder: Path) -> None:
    kept.write("one", HERE, *exported_once("edge"))
    folder.chmod(0o777)
    assert kept.read("one") is None


@pytest.mark.parametrize("name", ["aten.from_file.default", "aten.no_such.default", "prims.add.default", "system"])
def test_operations_without_a_rule_are_not_read(name: str) -> None:
    with pytest.raises((NotStorable, ValueError)):
        stored._function(name)
