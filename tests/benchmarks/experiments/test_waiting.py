"""What the comparison of rounds that wait and that don't makes of its runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from benchmarks.experiments.fleet import COMMON, Course, draw
from benchmarks.experiments.waiting import RUNS, of_one_network, text
from server_app.config.resolve import resolve
from strategies.round.buffer import Buffer

COURSE = Course(seconds=[2.0, 4.0], accuracy=[0.5, 0.85], smallest=[0.1, 0.2], counted=0.9, tiers=Counter(a=3))


def test_every_run_has_a_row_and_a_line(tmp_path: Path) -> None:
    found = {name: [COURSE] for name in RUNS}
    rows = [line for line in text(found).splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(RUNS)
    assert all("4 (4 to 4)" in row and "never" in row for row in rows[2:])
    draw(found, tmp_path / "waiting.svg", {name: row.colour for name, row in RUNS.items()})
    assert "<svg" in (tmp_path / "waiting.svg").read_text()


def test_every_run_can_be_run() -> None:
    for row in RUNS.values():
        settings = resolve({}, overrides={**COMMON, **row.keys}).settings
        assert settings.replies == row.replies


def test_the_control_is_for_its_runs_only() -> None:
    usual = Buffer.discount
    assert [name for name, row in RUNS.items() if row.rule is of_one_network] == ["buffered, 5 by FedBuff's rule"]
    with of_one_network():
        assert Buffer.discount is not usual
    assert Buffer.discount is usual
