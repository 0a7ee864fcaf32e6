"""Small files, formatted by the formatter."""

from __future__ import annotations

from benchmarks.probes.structure import PACKAGES, modules

LONGEST = 320  # lines of a file
UNFORMATTED = 20  # lines that the formatter is told to leave


def test_files_are_short() -> None:
    lines = {name: len(file.read_text().splitlines()) for name, file in modules(*PACKAGES).items()}
    assert {name for name, count in lines.items() if count > LONGEST} == set()


def test_the_formatter_decides() -> None:
    mark = "# fmt: " + "skip"  # in two parts, or this line would count
    files = modules(*PACKAGES, "tests", "examples").values()
    assert sum(line.count(mark) for file in files for line in file.read_text().splitlines()) <= UNFORMATTED
