"""The stranger's guide, executed as it stands: its files are written, its commands run, in the order of the page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.probes.structure import ROOT

GUIDE = ROOT / "examples" / "add_a_method.md"
BLOCK = re.compile(r"^```(\w+) ?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> Iterator[tuple[str, str, str]]:
    """Language, what is said behind it, and content of every block of code."""
    for found in BLOCK.finditer(text):
        yield found[1], found[2], found[3]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[subprocess.CompletedProcess[str]]]:
    folder, ran = tmp_path_factory.mktemp("guide"), []
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, "OMP_NUM_THREADS": "1"}
    for language, said, content in blocks(GUIDE.read_text()):
        if language == "python":
            file = folder / said
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        elif language == "sh":
            command = ["bash", "-e", "-c", content]
            one = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
            assert (one.returncode != 0) == (said == "fails"), f"{content}\n{one.stdout}\n{one.stderr}"
            ran.append(one)
    return folder, ran


@pytest.mark.slow  # minutes: five runs through the command
def test_every_step_does_what_the_page_says(
    done: tuple[Path, list[subprocess.CompletedProcess[str]]],
) -> None:
    folder, ran = done
    assert len(ran) == 5
    assert all((folder / "runs" / name / "report.html").exists() for name in ("warm-up", "heterofl", "none"))
    assert not (folder / "runs" / "wrong").exists()


@pytest.mark.slow
def test_a_wrong_option_is_answered_in_one_line(
    done: tuple[Path, list[subprocess.CompletedProcess[str]]],
) -> None:
    said = (done[1][1].stderr or done[1][1].stdout).strip().splitlines()
    assert len(said) == 1
    assert "warm-up-rounds = -1" in said[0]


def test_files_it_names_are_there() -> None:
    text = GUIDE.read_text()
    named = {name for name in re.findall(r"`([\w/]+(?:\.py|/))`", text) if "/" in name}
    named |= {str(Path("examples") / target) for target in re.findall(r"\]\(([^)]+)\)", text)}
    assert len(named) >= 4
    assert [name for name in named if not (ROOT / name).exists()] == []
