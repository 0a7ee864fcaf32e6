"""The device of examples/onnx_device.py: it has an exported file, numpy, Pillow and onnxruntime, and nothing else.

Once in an environment of its own, and once in a container without a network, of a 256 MB board's size.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from PIL import Image

import flotilla
from flotilla.serving.export import export
from tests.support import Player
from tests.wheel.environment import Environment

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "flotilla-device-test"
NEEDS = ("numpy", "pillow", "onnxruntime")
DOCKERFILE = """\
FROM python:3.11-slim
COPY packages /packages
COPY onnx_device.py tier-c.onnx /device/
COPY pictures /device/pictures
ENV PYTHONPATH=/packages PYTHONDONTWRITEBYTECODE=1
WORKDIR /device
"""


@pytest.fixture(scope="module")
def device(play: Player, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the device is given, and the answers that it should print."""
    pytest.importorskip("onnxruntime", reason="the extra `export`")
    folder = tmp_path_factory.mktemp("device")
    out = play.once(model="mlp")
    export(out.path, "c", "onnx", folder)
    shutil.copy(ROOT / "examples/onnx_device.py", folder)
    (folder / "pictures").mkdir()
    for place, shape in enumerate([(8, 8), (40, 20), (9, 9, 3)]):
        pixels = np.random.default_rng(place).integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"pictures/{place}.png")
    model = flotilla.load(out.path, "c")
    answers = []
    for picture in sorted((folder / "pictures").iterdir()):
        shares = torch.softmax(model(model.preprocess(picture)).detach(), 1)[0]
        answers.append([f"pictures/{picture.name}", model.classes[int(shares.argmax())], float(shares.max())])
    (folder / "answers.json").write_text(json.dumps(answers))
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    found = Environment(tmp_path_factory.mktemp("own") / "env")
    found.add(map(Requirement, NEEDS))
    return found


def check(device: Path, printed: str) -> None:
    wanted = json.loads((device / "answers.json").read_text())
    found = [line.split() for line in printed.splitlines()]
    assert [[name, label] for name, label, _ in found] == [[name, label] for name, label, _ in wanted]
    assert [float(share) for *_, share in found] == pytest.approx([share for *_, share in wanted], abs=1e-3)


def pictures(device: Path) -> list[str]:
    return [name for name, *_ in json.loads((device / "answers.json").read_text())]


def test_an_environment_without_torch(device: Path, environment: Environment) -> None:
    command = [environment.python, "-c", "import torch"]
    assert b"No module named 'torch'" in subprocess.run(command, capture_output=True, check=False).stderr
    command = [environment.python, "onnx_device.py", "tier-c.onnx", *pictures(device)]
    done = subprocess.run(command, cwd=device, env={}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    check(device, done.stdout)


@pytest.fixture
def image(device: Path, environment: Environment, tmp_path: Path) -> Iterator[str]:
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed")
    if subprocess.run(["docker", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker engine answers")
    shutil.copytree(device, tmp_path / "context")
    shutil.copytree(environment.packages, tmp_path / "context/packages")
    (tmp_path / "context/Dockerfile").write_text(DOCKERFILE)
    subprocess.run(["docker", "build", "--quiet", "--tag", IMAGE, tmp_path / "context"], check=True)
    yield IMAGE
    subprocess.run(["docker", "image", "rm", "--force", IMAGE], check=False, capture_output=True)


@pytest.mark.compose
def test_a_container_without_torch(device: Path, image: str) -> None:
    held = ["--network", "none", "--read-only", "--cap-drop", "ALL", "--memory", "256m", "--cpus", "1"]
    run = ["docker", "run", "--rm", *held, image, "python3"]
    without = subprocess.run([*run, "-c", "import torch"], capture_output=True, text=True, check=False)
    assert "No module named 'torch'" in without.stderr
    command = [*run, "onnx_device.py", "tier-c.onnx", *pictures(device)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    check(device, done.stdout)
