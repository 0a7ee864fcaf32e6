"""A run notes which code of the user's own it follows, and says so where it goes on with other code."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server_app.own_code import own_code
from strategies import METHODS
from tests.support import Player, configured

METHOD = """
from strategies import HeteroFL


class Mine(HeteroFL):
    VERSION = {version}
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that can be imported as `changing_lab`."""
    folder = tmp_path / "changing_lab"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield folder
    _forget()


def _forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "changing_lab"]:
        del sys.modules[name]
    importlib.invalidate_caches()


def test_a_run_that_goes_on_with_other_code_says_so(
    play: Player, package: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def write(version: int) -> None:
        (package / "methods.py").write_text(METHOD.format(version=version))
        _forget()
        METHODS._loaded.pop("changing_lab.methods:Mine", None)

    write(1)
    keys: dict[str, Any] = {"method": "changing_lab.methods:Mine", "num_clients": 2}
    out = play(num_server_rounds=1, **keys)
    noted = json.loads((out.path / "config.json").read_text())["code"]
    assert noted == own_code({"method": keys["method"]})
    resumed = {**keys, "resume": str(out.path)}
    play(num_server_rounds=2, **resumed)
    assert not [line for line in caplog.messages if "is not what it was" in line]
    write(2)
    play(num_server_rounds=3, **resumed)
    (said,) = [line for line in caplog.messages if "is not what it was" in line]
    assert said.startswith("changing_lab is not what it was when this run began")


def test_a_checkpoint_of_another_network_is_named() -> None:
    """As after a change of the user's own network, of which nothing else tells in a new process."""
    narrow, wide = (configured(widths=f"{units}, 8").strategy() for units in (12, 16))
    found = r"has the shape \(12, 64\), here \(16, 64\)"
    with pytest.raises(ValueError, match=f"the checkpoint is of another network: .* {found}"):
        wide.runner.restore(*narrow.runner.checkpoint())


def test_what_is_installed_has_a_version_and_no_digest() -> None:
    assert own_code({"model": "torchvision.models:resnet18", "method": "heterofl", "seed": 1}) == {}
