"""`flotilla profile`: what it measures, and the tier that it names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from client_app import profile as measuring
from flotilla.device import profile as command
from flotilla.device.bandwidth import Line, Rate
from flotilla.device.profile import profile
from flotilla.settings import SettingsError
from protocol.profile import CONVOLUTION, CORES, GUESSED, MATMUL, MEMORY_AVAILABLE, MEMORY_TOTAL, NEEDED, STEP

ROOT = Path(__file__).resolve().parents[3]
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
    assert profile(ROOT, CONFIG, examples=65).tier == "b"  # the last batch of one joins the one before it
    assert profile(ROOT, CONFIG, examples=66).tier == "c"
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


# 400 bytes a second down, 800 up.
LINE = Line(server="sea:8000", tls=True, connect=0.2, round_trip=0.1, up=Rate(800.0), down=Rate(400.0))


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> list[Line]:
    """What the line to a server is; the test may put another one there."""
    found = [LINE]
    monkeypatch.setattr(command, "measure_line", lambda server, root: found[0])
    return found


def test_the_transfer_of_the_part_counts(line: list[Line]) -> None:
    """As arrays of float32: the whole state down, or with slice-at the part; the part up. 64 examples are 16 steps."""
    found = profile(ROOT, CONFIG, examples=64, server="sea:8000")
    sizes = [tier.parameters for tier in found.tiers]
    for tier, parameters in zip(found.tiers, sizes, strict=True):
        assert 4 * sizes[0] <= tier.bytes_down < 4 * sizes[0] + 200
        assert 4 * parameters <= tier.bytes_up < 4 * parameters + 200
        assert tier.transfer == pytest.approx(tier.bytes_down / 400 + tier.bytes_up / 800)
    steps = [16.0, 8.0, 1.6]
    assert [tier.round for tier in found.tiers] == pytest.approx(
        [step + (tier.transfer or 0) for step, tier in zip(steps, found.tiers, strict=True)]
    )
    sliced = profile(ROOT, [*CONFIG, 'slice-at="server"'], examples=64, server="sea:8000")
    for tier, parameters in zip(sliced.tiers, sizes, strict=True):
        assert 4 * parameters <= tier.bytes_down < 4 * parameters + 200
    small = profile(ROOT, [*CONFIG, 'codec="qsgd"'], examples=64, server="sea:8000")
    assert small.tiers[0].bytes_up < found.tiers[0].bytes_up / 2


def test_the_line_decides_the_tier(line: list[Line]) -> None:
    """Without it b takes 8 s, all that margin and deadline allow."""
    assert profile(ROOT, CONFIG, examples=64).tier == "b"
    assert profile(ROOT, CONFIG, examples=64, server="sea:8000").reason == (
        "the smallest that fits the memory; none meets the deadline"
    )
    line[0] = replace(LINE, up=Rate(1e5), down=Rate(1e5))
    assert profile(ROOT, CONFIG, examples=64, server="sea:8000").tier == "c"
    assert profile(ROOT, CONFIG, examples=62, server="sea:8000").tier == "c"
    assert profile(ROOT, CONFIG, examples=56, server="sea:8000").tier == "b"


def test_what_is_said_of_the_line(line: list[Line]) -> None:
    found = profile(ROOT, CONFIG, examples=64, server="sea:8000")
    text = found.text()
    assert "up           0.0064 Mbit/s" in text
    assert "down         0.0032 Mbit/s" in text
    assert "round trip   100.0 ms      (an empty request to sea:8000 over TLS; 200.0 ms to connect)" in text
    assert json.loads(found.to_json())["line"]["down"] == {"bytes": 400.0, "least": False, "why": ""}
    assert json.loads(found.to_json())["tiers"][2]["transfer"] == found.tiers[2].transfer
    line[0] = replace(LINE, up=Rate(1e6, True, "so"), down=Rate(None, why="a proxy hides it"))
    text = profile(ROOT, CONFIG, examples=64, server="sea:8000").text()
    assert "up           at least 8 Mbit/s" in text
    assert "down         - (a proxy hides it)" in text
    assert "Not in it: what goes down" in text
    assert "<0.0" in text
    assert "Without --server nothing is known of the line" in profile(ROOT, CONFIG, examples=64).text()


def test_wrong_settings_are_said_in_one_line() -> None:
    with pytest.raises(SettingsError, match="tier-margin"):
        profile(ROOT, ["tier-margin=2.0"])
    with pytest.raises(SettingsError, match="no such setting"):
        profile(ROOT, ["tier-margins=0.5"])
    with pytest.raises(SettingsError, match="with --server"):
        profile(ROOT, CONFIG, root=Path("ca.crt"))
