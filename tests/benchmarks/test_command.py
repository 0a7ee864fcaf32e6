"""One command runs everything that measures."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.__main__ import TASKS, listing, main
from benchmarks.bench.rows import HEADS, Row
from benchmarks.bench.run import read, write
from benchmarks.document import replace_part
from benchmarks.probes.structure import ROOT, modules
from benchmarks.task import Command, Options


def test_everything_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("  ") for line in said) == sum(map(len, TASKS.values()))
    assert "\n".join(said) == listing()


def test_whatever_can_be_run_is_in_the_list() -> None:
    """Each module with a task is named, each name has its task, and the parts of `bench` are its lines."""
    named = {f"benchmarks.{folder}.{module}" for folder, tasks in TASKS.items() for module, _ in tasks.values()}
    text = {name: file.read_text() for name, file in modules("benchmarks").items()}
    assert named == {name for name, lines in text.items() if "\nTASK = " in lines or "\nTASKS = " in lines}
    for folder, tasks in TASKS.items():
        for name, (module, _) in tasks.items():
            found = import_module(f"benchmarks.{folder}.{module}")
            task = found.TASKS[name] if hasattr(found, "TASKS") else found.TASK
            assert isinstance(task, Command)
            assert folder != "bench" or list(task.parts) == list(tasks)


def test_a_task_gets_what_the_command_line_says() -> None:
    given: list[Options] = []

    def run(options: Options) -> int:
        given.append(options)
        return 3

    task = Command(run, parts=("a", "b"), defaults={"seeds": [1], "write": False})
    assert task(["b", "--seeds", "4", "5", "--write"], "command", None) == 3
    assert task([], "command", None) == 3
    assert given == [Options(["b"], seeds=[4, 5], write=True), Options(["a", "b"], seeds=[1])]


@pytest.mark.parametrize("arguments", [["c"], ["--rounds", "3"], ["--seeds", "many"]])
def test_what_a_task_does_not_know_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    task = Command(lambda options: 0, parts=("a", "b"), defaults={"seeds": [1]})
    with pytest.raises(SystemExit):
        task(arguments, "command", None)
    assert "usage: command" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["tables"], ["probes"], ["experiments", "bench"]])
def test_an_unknown_name_gets_the_known_ones(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "there are" in capsys.readouterr().err


def test_the_list_needs_no_packages() -> None:
    """It is there at once, and before everything is installed."""
    command = [sys.executable, "-S", "-m", "benchmarks"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == listing()


def test_the_command_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [
        Row(
            benchmark="averaging",
            what="a / b",
            measured=1.0,
            reference=1.0,
            unit="s",
            ratio=1.0,
            limit=1.5,
            note="said",
        ),
        Row(benchmark="x", what="c / d", measured=2.0, reference=1.0, unit="s", ratio=2.0, limit=1.5),
    ]
    monkeypatch.setattr("benchmarks.bench.run.BENCHMARKS", {"averaging": lambda _: rows[:1], "codecs": lambda _: rows})
    assert main(["bench", "averaging", "--json", str(tmp_path / "rows.json")]) == 0
    assert main(["bench", "averaging", "codecs"]) == 1
    assert "FAIL" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["bench", "three"])
    document = tmp_path / "results.md"
    document.write_text("before\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nafter\n")
    write(*read(tmp_path / "rows.json"), document)
    text = document.read_text()
    assert " | ".join(HEADS) in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    with pytest.raises(ValueError, match="markers"):
        replace_part(document, "other", "")


@pytest.mark.parametrize(
    "text",
    [
        None,
        "no JSON",
        "[]",
        '{"machine": "", "rows": [1]}',
        '{"machine": "this one"}',
        '{"machine": "", "rows": [{"what": 1}]}',
    ],
)
def test_rows_that_cannot_be_read_are_refused_in_one_line(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "rows.json"
    if text is not None:
        place.write_text(text)
    assert main(["bench", "--rows", str(place)]) == 2
    assert capsys.readouterr().err.startswith(f"bench: --rows {place}: a file that --json wrote is wanted; ")
