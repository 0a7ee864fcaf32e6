"""The example of a network of one's own: it says what it says, and every tier trains its part of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.probes.structure import ROOT
from models import SettingError
from tests.support import Player, configured

EXAMPLES = ROOT / "examples"


def test_it_prints_what_tiers_hold() -> None:
    command = [sys.executable, str(EXAMPLES / "own_network.py")]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["width 1", "width 1/2", "width 1/4"]


@pytest.mark.parametrize("method", ["heterofl", "fedrolex", "fiarse"])
def test_it_is_trained(play: Player, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    out = play(method=method, model="own_network:make", widths="", num_server_rounds=1)
    assert not out.rejected
    assert out.summary["last"]["accuracy"] > 0.2


def test_methods_that_cut_in_depth_refuse_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    with pytest.raises(SettingError, match="exits after its stages"):
        configured(method="depthfl", model="own_network:make", widths="").strategy()
