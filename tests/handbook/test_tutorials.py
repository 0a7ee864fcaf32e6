"""The tutorials, executed as they stand: their files are written, their commands run, in the order of the page.

"sh fails" is a command that is refused.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.probes.structure import ROOT
from flotilla.cli import app
from flotilla.settings import parse_run_config
from server_app.config import defaults

PAGES = sorted((ROOT / "docs/tutorials").glob("*.md"))
BLOCK = re.compile(r"^```(\w+) ?([^\n]*)\n(.*?)^```$", re.M | re.S)
PYTHON = str(Path(sys.executable).parent)

pytestmark = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def blocks(page: Path) -> Iterator[tuple[str, str, str]]:
    """Language, what is said behind it, and content of every block of code."""
    for found in BLOCK.finditer(page.read_text(encoding="utf-8")):
        yield found[1], found[2], found[3]


@pytest.mark.slow  # minutes: runs through the command
def test_every_step_does_what_the_page_says(page: Path, tmp_path: Path) -> None:
    path = os.pathsep.join([PYTHON, os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, "OMP_NUM_THREADS": "1"}
    ran = 0
    for language, said, content in blocks(page):
        if language != "sh":
            file = tmp_path / said
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, encoding="utf-8")
            continue
        done = subprocess.run(
            ["bash", "-e", "-c", content], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=800
        )
        assert (done.returncode != 0) == (said == "fails"), f"{content}\n{done.stdout}\n{done.stderr}"
        ran += 1
    assert ran >= 2
    assert not (tmp_path / "runs/wrong").exists()


def test_commands_and_settings_that_it_names_are_there(page: Path) -> None:
    commands = {command.name for command in app.registered_commands}
    commands |= {command.callback.__name__.strip("_") for command in app.registered_commands if command.callback}
    scripts = [content for language, _, content in blocks(page) if language == "sh"]
    used = re.findall(r"^flotilla (\S+)", "\n".join(scripts), re.M)
    assert used
    assert set(used) - commands == set()
    for text in re.findall(r"-c '([^']*)'", "\n".join(scripts)):
        assert set(parse_run_config([text])) - set(defaults()) == set()
