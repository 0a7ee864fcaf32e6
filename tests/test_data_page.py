"""docs/data.md: every example in it is run, one after the other, in a folder that has what the page speaks of."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import own_pictures

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs/data.md").read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Digits by client, questions of three people, and patients of three clinics, in one table and in a table each."""
    draws = np.random.default_rng(0)
    head = ["patient", "age", "pressure", "pain", "clinic", "ill"]
    rows = [
        [
            str(number),
            str(age),
            draws.choice(["?", "120", "140"]),
            draws.choice(["none", "chest"]),
            clinic,
            str(age > 50),
        ]
        for number, (age, clinic) in enumerate(
            zip(draws.integers(20, 80, 300), ["ada", "bern", "como"] * 100, strict=True)
        )
    ]
    _write(tmp_path / "heart.csv", head[1:], [row[1:] for row in rows])
    _write(tmp_path / "new.csv", ["pain", "pressure", "age"], [["none", "?", "70"], ["chest", "120", "30"]])
    own_pictures.make(tmp_path, examples=100, tested=5)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "device").rename(tmp_path / "pictures/train")
    (tmp_path / "server/test").rename(tmp_path / "pictures/test")
    places, people = ("where is the station", "place"), ("who wrote this book", "person")
    texts = [[f"{text} {number}", label, "abc"[number % 3]] for number in range(30) for text, label in (places, people)]
    (tmp_path / "questions").mkdir()
    _write(tmp_path / "questions/train.csv", ["text", "label", "who"], texts)
    (tmp_path / "clinics").mkdir()
    for clinic in ("ada", "bern", "como"):
        own = [row[:4] + row[5:] for row in rows if row[4] == clinic]
        _write(tmp_path / "clinics" / f"{clinic}.csv", [*head[:4], head[5]], own)
    return tmp_path


def _write(file: Path, head: list[str], rows: list[list[str]]) -> None:
    file.write_text("".join(",".join(row) + "\n" for row in [head, *rows]), encoding="utf-8")


@pytest.mark.slow
def test_every_example_runs(folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    printed = list[tuple[str, str]]()
    for example in EXAMPLES:
        script = re.sub(r"^flotilla\b", f"'{sys.executable}' -m flotilla", example, flags=re.M)
        done = subprocess.run(
            ["bash", "-ec", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (example, done.stdout, done.stderr)
        printed.append((example, done.stdout))
    said = {word: out.splitlines() for example, out in printed for word in re.findall(r"predict (\S+)", example)}
    assert [line.split()[1] for line in said["by-column"]] == ["True", "False"]
    assert sum(line.startswith("pictures/test/digit") for line in said["by-folder"]) == 5
    assert said["questions-run"][-1].startswith("new.txt")
