"""Where a benchmark's time goes, by operation."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.bench import operations, run
from benchmarks.bench.operations import (
    ALL,
    OTHERS,
    OUTSIDE,
    Times,
    of_averaging,
    of_pfl,
    of_training,
    text_of,
    times_of,
)
from benchmarks.bench.shapes import TINY


def test_operations_are_told_apart_from_what_is_none() -> None:
    x = torch.rand(200, 200)

    def work() -> None:
        x @ x
        x.cos()
        time.sleep(0.05)

    found = times_of(work)
    assert {"aten::mm", "aten::cos"} <= set(found.operations)
    assert "aten::matmul" in found.operations  # which calls mm: its own time is without that
    assert sum(found.operations.values()) < found.everything - 0.04


def test_a_table_has_what_matters_in_some_column_and_adds_up() -> None:
    first = Times(operations={"aten::mm": 0.06, "aten::view": 0.002, "aten::cos": 0.0005}, everything=0.101)
    second = Times(operations={"aten::cos": 0.05}, everything=0.2)
    lines = text_of({"ours": first, "theirs": second}, count=10).splitlines()
    assert lines[0] == "| operation, ms | ours | theirs |"
    assert lines[2:] == [
        "| mm | 6.00 (59%) | 0.00 (0%) |",
        "| view | 0.20 (2%) | 0.00 (0%) |",
        "| cos | 0.05 (0%) | 5.00 (25%) |",
        f"| {OTHERS} | 0.00 (0%) | 0.00 (0%) |",
        f"| {OUTSIDE} | 3.85 (38%) | 15.00 (75%) |",
        f"| {ALL} | 10.10 (100%) | 20.00 (100%) |",
    ]


def test_averaging_is_additions() -> None:
    assert re.search(r"^\| add_ \| [\d.]+ \(", of_averaging(TINY, clients=5, turns=2), re.MULTILINE)


def test_training_is_convolutions_in_both_columns() -> None:
    found = of_training(TINY, examples=8, batch_size=4)
    assert "of 10\n" in found  # five tiers, two steps each
    assert re.search(r"^\| convolution_backward \| [\d.]+ \(\d+%\) \| [\d.]+ \(", found, re.MULTILINE)


@pytest.mark.slow
def test_pfl_is_convolutions() -> None:
    assert re.search(
        r"^\| convolution_backward \| [\d.]+ \(\d+%\) \| [\d.]+ \(", of_pfl(clients=1000, fraction=0.001), re.M
    )


def test_what_is_not_profiled_is_refused_and_the_rest_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "memory", "averaging", "--operations"]) == 2
    assert "of memory there is no profile; there is one of averaging, training, pfl" in capsys.readouterr().err
    document = tmp_path / "results.md"
    document.write_text("<!-- operations:begin -->\n<!-- operations:end -->\n", encoding="utf-8")
    monkeypatch.setattr(run, "RESULTS", document)
    monkeypatch.setattr(operations, "PROFILED", {"averaging": lambda: "the table"})
    assert main(["bench", "averaging", "--operations", "--write"]) == 0
    assert "the table" in document.read_text(encoding="utf-8")
