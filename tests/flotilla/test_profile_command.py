"""`flotilla profile`: what it measures, and the tier that it names."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from client_app import profile as measuring
from flotilla.profile import connect_seconds, profile
from flotilla.settings import SettingsError
from protocol.profile import CONVOLUTION, CORES, GUESSED, MATMUL, MEMORY_AVAILABLE, MEMORY_TOTAL, NEEDED, STEP

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ['model="mlp" widths="16, 8" tiers="a:1, b:1/2, c:1/4" batch-size=8 local-epochs=2 deadline=10.0']


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Steps of 1, 0.5 and 0.1 seconds; the last two fit the memory."""
    figures = {MEMORY_TOTAL: 8e9, MEMORY_AVAILABLE: 1e6, CORES: 4.0, MATMUL: 1e10, CONVOLUTION: 2e10}
    for name, step, needed in (("a", 1.0, 2e6), ("b", 0.5, 1e6), ("c", 0.1, 5e5)):
        figures |= {STEP + name: step, NEEDED + name: needed}
    monkeypatch.setattr(measuring, "measure", lambda request: figures)
    return figures


def test_the_largest_that_fits_and_meets_the_deadline(device: dict[str, float]) -> None:
    found = profile(ROOT, CONFIG, examples=64)  # 16 steps a round
    assert [(tier.tier, tier.round) for tier in found.tiers] == [("a", 16.0), ("b", 8.0), ("c", pytest.approx(1.6))]
    assert [tier.why for tier in found.tiers] == ["needs 2 MB", "fits", "fits"]
    assert (found.tier, found.reason) == ("b", "the largest that fits the memory and meets the deadline")
    assert profile(ROOT, CONFIG, examples=65).tier == "c"
    slow = profile(ROOT, CONFIG, examples=1000)
    assert (slow.tier, slow.reason) == ("c", "the smallest that fits the memory; none meets the deadline")
    device[MEMORY_AVAILABLE] = 1e5
    none = profile(ROOT, CONFIG, examples=64)
    assert none.tier is None
    assert "tier: none" in none.text()


def test_the_table_says_what_is_an_estimate(device: dict[str, float]) -> None:
    device[GUESSED + "b"] = 1.0
    found = profile(ROOT, CONFIG, examples=64)
    lines = found.text().splitlines()
    assert any("~500.00 ms" in line and "~1.0 MB" in line for line in lines)
    assert any(" 100.00 ms" in line for line in lines)
    assert "tier: b" in lines[-1]
    assert json.loads(found.to_json())["tiers"][1]["guessed"] is True


def test_connecting_to_a_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert 0 < connect_seconds(f"127.0.0.1:{port}") < 10
    for wrong in ("nowhere", "host:port", f"127.0.0.1:{port}", ":80"):
        with pytest.raises(SettingsError, match="server = "):
            connect_seconds(wrong)


def test_wrong_settings_are_said_in_one_line() -> None:
    with pytest.raises(SettingsError, match="tier-margin"):
        profile(ROOT, ["tier-margin=2.0"])
    with pytest.raises(SettingsError, match="no such setting"):
        profile(ROOT, ["tier-margins=0.5"])
