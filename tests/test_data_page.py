"""docs/data.md: every example in it is run, one after the other, in a folder that has what the page speaks of."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

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
    _flowers(tmp_path)
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


def _flowers(folder: Path) -> None:
    """What the library datasets saved, and a data set of somebody's own."""
    import datasets

    pixels = np.random.default_rng(1).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["rose", "iris"])})
    columns = {"image": [Image.fromarray(one) for one in pixels], "label": [0, 1] * 20}
    datasets.Dataset.from_dict(columns, features).save_to_disk(str(folder / "flowers"))
    (folder / "birds.py").write_text(_BIRDS, encoding="utf-8")


_BIRDS = '''"""Birds that are drawn here."""

from PIL import Image
from torch.utils.data import Dataset


class Birds(Dataset):
    """Owls are dark, jays are blue."""

    classes = ("owl", "jay")

    def __init__(self, root, train=True):
        self.count = 40 if train else 10

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        return Image.new("RGB", (9, 12), (20, 20, 20 + 200 * (row % 2))), row % 2
'''


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
    ages, flowers, birds = (_summary(folder / run) for run in ("age", "flowers-run", "birds-run"))
    assert ages["metric"]["name"] == "rmse"
    assert ages["best"]["score"] < 25  # ages are uniform from 20 to 80
    assert flowers["last"]["accuracy"] is not None
    assert birds["last"]["accuracy"] == 1.0


def _summary(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert found["status"] == "finished"
    return found
