"""The line of a round and the final table: everything in it, in ASCII, whatever is missing."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from server_app.folder.events import Events, scalars
from server_app.folder.progress import Progress, count, final_table, print_line

ROW: dict[str, Any] = {
    "round": 3,
    "selected": [11, 12, 13],
    "accepted": 2,
    "rejected": [{"node": 11, "reason": "not finite"}],
    "loss": 0.0731,
    "accuracy": 0.9812,
    "tiers": {"a": {"loss": 0.1, "accuracy": 0.99}, "b": {"loss": 0.2, "accuracy": None}},
    "bytes_down": 12_345_678,
    "bytes_up": 345_678,
}


def lines(rounds: int, *rows: dict[str, Any], seconds: float = 90.0) -> list[str]:
    said: list[str] = []
    now = iter(seconds * n for n in range(99))
    progress = Progress(rounds, said.append, lambda: next(now))
    for row in rows:
        progress.round(row)
    return said


def test_the_line_of_a_round() -> None:
    (line,) = lines(20, ROW)
    assert line == (
        "round  3/20 | acc 98.1%  loss 0.0731 | a 99.0 b - | 2/3 clients, 1 rejected"
        " | 12.3/0.346 MB down/up | 90.0 s | 25:30 left"
    )


def test_rounds_that_were_abandoned_or_not_evaluated() -> None:
    row = {"round": 4, "abandoned": True, "selected": [1, 2], "accepted": 0}
    (line,) = lines(20, row)
    assert line.startswith("round  4/20 | ABANDONED | 0/2 clients | -/- MB down/up | 90.0 s | ")
    assert "acc" not in line


def test_numbers_that_are_null_do_not_break_the_line() -> None:
    (line,) = lines(3, {**ROW, "loss": None, "accuracy": None})
    assert "acc -%  loss -" in line
    assert "left" not in line


def test_the_estimate_counts_only_the_rounds_of_this_process() -> None:
    said = lines(500, *({"round": n} for n in (400, 401)), seconds=60)
    assert [line.split(" | ")[-1] for line in said] == ["1:40:00 left", "1:39:00 left"]


def test_the_first_estimate_leaves_the_hello_out() -> None:
    """Nodes come and say hello once, in 3600 of the first round's 3700 seconds; the other rounds take 100."""
    phases = {"hello": 3500.0, "train": 90.0, "evaluate": 10.0}  # beside 100 s of waiting for nodes
    said: list[str] = []
    now = iter([0, 3700, 3800])
    progress = Progress(11, said.append, lambda: next(now))
    progress.round({"round": 1, "seconds": phases})
    progress.round({"round": 2, "seconds": {**phases, "hello": 0.0}})
    assert [line.split(" | ")[-2:] for line in said] == [["3700.0 s", "16:40 left"], ["100.0 s", "15:00 left"]]


def test_lines_are_flushed_and_survive_a_narrow_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    print_line("tier größe")
    assert raw.getvalue() == b"tier gr??e\n"


def result(number: int, accuracy: float) -> dict[str, Any]:
    costs = {"parameters": 9_622_090, "macs": 330_000_000, "bytes_down": 38_500_000, "bytes_up": None}
    tiers = {"a": {"accuracy": accuracy, **costs}, "b [red]": {"accuracy": None, **costs}}
    return {"round": number, "loss": 0.1, "accuracy": accuracy, "tiers": tiers}


def test_the_final_table() -> None:
    summary: dict[str, Any] = {"status": "finished", "rounds": 20, "last": result(20, 0.97), "best": result(17, 0.98)}
    summary["best_of_tier"] = {"a": {"round": 12, "accuracy": 0.99}}
    text = final_table(summary, Path("runs/x"), {"a": "1", "b [red]": "1/2"})
    table = {line.split("  ")[0]: line.split() for line in text.splitlines()}
    assert table["tier"] == [
        "tier",
        "rate",
        "parameters",
        "MACs",
        "MB",
        "down",
        "MB",
        "up",
        "last,",
        "r20",
        "own",
        "best",
        "in",
    ]
    assert table["a"] == ["a", "1", "9,622,090", "330", "M", "38.5", "-", "97.00", "%", "99.00", "%", "r12"]
    assert table["b [red]"] == ["b", "[red]", "1/2", "9,622,090", "330", "M", "38.5", "-", "-", "-", "-"]
    assert table["global"] == ["global", "97.00", "%", "98.00", "%", "r17"]
    assert text.splitlines()[0] == "finished after 20 rounds"
    assert text.splitlines()[-1] == "run folder: runs/x"
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 100


def test_the_final_table_of_a_run_that_came_to_nothing() -> None:
    text = final_table({"status": "failed", "rounds": 0, "last": None, "best": None}, Path("runs/x"))
    assert "failed after 0 rounds" in text
    assert "run folder: runs/x" in text


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "-"), (0, "0"), (999, "999"), (38_350, "38.4 k"), (2_408_746, "2.41 M"), (5.6e11, "560 G")],
)
def test_counts(number: float | None, text: str) -> None:
    assert count(number) == text


def test_events_hold_the_rows_scalars(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import (  # type: ignore[import-untyped, unused-ignore]
        RawEventFileLoader,
    )
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped, unused-ignore]

    events = Events(tmp_path, pytest.fail)
    events.write({**ROW, "train_loss": float("nan")})
    events.write({"round": 4, "seconds": {"wait": 0.5}})
    events.close()
    (file,) = (tmp_path / "events").iterdir()
    found = [Event.FromString(raw) for raw in RawEventFileLoader(str(file)).Load()]
    assert [event.step for event in found] == [0, 3, 3, 4]
    values = {value.tag: value.simple_value for value in found[2].summary.value}
    assert values.keys() == dict(scalars(ROW)).keys()
    assert values["tiers/a/accuracy"] == pytest.approx(0.99)
    assert (values["rejected"], values["selected"]) == (1, 3)
    assert [(value.tag, value.simple_value) for value in found[3].summary.value] == [("seconds/wait", 0.5)]


def test_events_never_fail_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.record_writer", None)
    said: list[str] = []
    events = Events(tmp_path, said.append)
    events.write(ROW)
    events.write(ROW)
    events.close()
    assert len(said) == 1
    assert "no more TensorBoard events" in said[0]
