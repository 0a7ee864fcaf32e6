"""docs/models-out.md: every example in it is run, one after the other, in a folder that has a finished run.

A fence says what its example needs: "sh slow" is run by `make test-slow`, "sh executorch" and "sh litert" as well,
where these are installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import DataSettings
from data import load as load_data
from tests.support import Player

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs/models-out.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```(python|sh)\n(.*?)^```", TEXT, re.M | re.S)
MORE = re.findall(r"^```sh (\w+)\n(.*?)^```", TEXT, re.M | re.S)
PACKAGES = {"executorch": "executorch", "litert": "litert_torch"}


@pytest.fixture(scope="module")
def folder(play: Player, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: a run, a picture of one of its digits, rows and values."""
    here = tmp_path_factory.mktemp("reader")
    out = play.once(model="cnn", widths="8, 8, 8, 16", num_server_rounds=3, local_epochs=3, batch_size=16)
    shutil.copytree(out.path, here / "runs/latest")
    shutil.copytree(ROOT / "examples", here / "examples")
    values = load_data(DataSettings()).test_examples.values.numpy()
    picture = (values[0, 0].astype(np.float64) * 255 / 16).round().astype(np.uint8)
    Image.fromarray(picture).resize((64, 64), Image.Resampling.NEAREST).save(here / "seven.png")
    np.savetxt(here / "rows.csv", values[:3].reshape(3, 64), fmt="%d", delimiter=",")
    np.save(here / "values.npy", values[:2])
    return here


def run(folder: Path, kind: str, example: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if kind == "python":
        command = [sys.executable, "-c", example]
    else:
        words = {"flotilla": f"'{sys.executable}' -m flotilla", "python": f"'{sys.executable}'"}
        script = re.sub(r"^(flotilla|python)\b", lambda found: words[found[1]], example, flags=re.M)
        command = ["bash", "-ec", script]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_every_example_runs(folder: Path) -> None:
    assert len(EXAMPLES) >= 6
    printed = []
    for kind, example in EXAMPLES:
        done = run(folder, kind, example)
        assert done.returncode == 0, (example, done.stderr)
        printed.append(done.stdout)
    predicted, device = printed[3].splitlines(), printed[5]
    assert [line.split()[0] for line in predicted[:1]] == ["seven.png"]
    assert len(predicted) == 1 + 3 + 2
    assert device.split()[0] == "seven.png"
    table = printed[4].splitlines()
    assert [line.split()[0] for line in table[:4]] == ["tier", "a", "b", "c"]
    of_files = [path.name for path in sorted((folder / "runs/latest/export").iterdir())]
    assert of_files == ["tier-a.onnx", "tier-b.onnx", "tier-c.onnx"]


@pytest.mark.slow
def test_examples_that_take_longer_or_need_more(folder: Path) -> None:
    assert {need for need, _ in MORE} == {"slow", *PACKAGES}
    for need, example in MORE:
        if need in PACKAGES and find_spec(PACKAGES[need]) is None:
            continue
        done = run(folder, "sh", example)
        assert done.returncode == 0, (example, done.stderr)
        print(example, done.stdout, sep="\n")
    assert (folder / "runs/latest/export/tier-b.int8.onnx").is_file()
