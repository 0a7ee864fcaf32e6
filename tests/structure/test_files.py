"""Small files, formatted by the formatter, and merged to the end."""

from __future__ import annotations

import subprocess

import pytest

from benchmarks.probes.structure import PACKAGES, ROOT, modules

LONGEST = 320  # lines of a file
UNFORMATTED = 20  # lines that the formatter is told to leave


def test_files_are_short() -> None:
    lines = {name: len(file.read_text().splitlines()) for name, file in modules(*PACKAGES).items()}
    assert {name for name, count in lines.items() if count > LONGEST} == set()


def test_the_formatter_decides() -> None:
    mark = "# fmt: " + "skip"  # in two parts, or this line would count
    files = modules(*PACKAGES, "tests", "examples").values()
    assert sum(line.count(mark) for file in files for line in file.read_text().splitlines()) <= UNFORMATTED


def test_no_merge_was_left_half_done() -> None:
    """Markers of a conflict do no harm to a formatter where a file is no Python."""
    marks = "|".join(f"{mark * 7} " for mark in "<>")  # in parts, or this line would count
    found = subprocess.run(["git", "grep", "-lE", f"^({marks})"], cwd=ROOT, capture_output=True, text=True, check=False)
    if not (ROOT / ".git").exists():
        pytest.skip("no repository")
    assert found.returncode <= 1, found.stderr  # 1 is nothing found
    assert found.stdout.split() == []
