"""What the fleet benchmark makes of its runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from benchmarks.experiments.fleet import COMMON, FIXED, MEASURED, Course, draw, text
from server_app.config.resolve import resolve

FAST = Course(
    seconds=[2.0, 4.0, 6.0], accuracy=[0.5, 0.85, 0.95], smallest=[0.1, 0.2, 0.3], counted=0.9, tiers=Counter(a=3)
)
SLOW = Course(
    seconds=[5.0, 10.0, 15.0], accuracy=[0.5, 0.75, 0.85], smallest=[0.2, 0.3, 0.4], counted=0.7, tiers=Counter(c=3)
)


def test_seconds_until_a_target() -> None:
    assert FAST.until(0.7) == 4.0
    assert FAST.until(0.95) == 6.0
    assert SLOW.until(0.9) is None


def test_the_table_says_who_never_gets_there(tmp_path: Path) -> None:
    found = {FIXED: [SLOW, FAST], MEASURED: [FAST, FAST]}
    rows = [line for line in text(found).splitlines() if line.startswith("|")]
    assert "7 (4 to 10)" in rows[2]
    assert "6 (6 to 6), 1 of 2 never" in rows[2]
    assert "80 %" in rows[2]
    draw(found, tmp_path / "fleet.svg")
    assert "<svg" in (tmp_path / "fleet.svg").read_text()


def test_its_configuration_can_be_run() -> None:
    assert resolve({**COMMON, "tier-assignment": "measured"}).settings.fleet is not None
