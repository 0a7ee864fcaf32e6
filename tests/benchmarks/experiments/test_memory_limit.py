"""What is compared within a limit of memory fits it, and is as much as fits."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.experiments.memory_limit import LIMIT, accuracies, cells, finished, ways


def test_everything_but_the_ceiling_fits() -> None:
    full, *limited = ways()
    assert [way.memory <= LIMIT * full.memory for way in limited] == [True, True, True]
    assert [way.name for way in limited] == [
        "block-wise, all stages",
        "DepthFL, 1 of 4 stages",
        "leading 1/2 of every width",
    ]


def test_last_and_best_round_of_a_run(tmp_path: Path) -> None:
    rows = [{"accuracy": 0.5}, {"accuracy": None}, {}, {"accuracy": 0.7}, {"accuracy": 0.6}]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert accuracies(tmp_path) == (0.6, 0.7)
    way = ways()[1]
    assert cells(way, 2 * way.memory, [(0.6, 0.7), (0.5, 0.5)])[2:] == [
        "0.50",
        "55.0 %",
        "60.0, 50.0",
        "60.0 %",
    ]


def test_only_a_run_that_has_ended_is_not_repeated(tmp_path: Path) -> None:
    assert not finished(tmp_path)
    for status in ("stopped", "finished"):
        (tmp_path / "summary.json").write_text(json.dumps({"status": status}))
        assert finished(tmp_path) == (status == "finished")
