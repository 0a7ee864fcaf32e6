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
from tests.support import Player, configured

NETWORK = """
from torch import nn


def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, {units}), nn.{function}(), nn.Linear({units}, 10))
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


def _written(package: Path, **words: object) -> None:
    (package / "nets.py").write_text(NETWORK.format(**words))
    _forget()


def test_a_run_that_goes_on_with_other_code_says_so(
    play: Player, package: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from models.networks.registry import NETWORKS

    def again(**words: object) -> None:
        _written(package, **words)
        NETWORKS._loaded.pop("changing_lab.nets:make", None)

    again(units=8, function="ReLU")
    keys: dict[str, Any] = {"model": "changing_lab.nets:make", "widths": "", "tiers": "a:1, b:1/2", "num_clients": 2}
    out = play(num_server_rounds=1, **keys)
    noted = json.loads((out.path / "config.json").read_text())["code"]
    assert noted == own_code({"model": keys["model"]})
    resumed = {**keys, "resume": str(out.path)}
    play(num_server_rounds=2, **resumed)
    assert not [line for line in caplog.messages if "is not what it was" in line]
    again(units=8, function="Tanh")
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
