"""The same network through ONNX, for every method: accuracy as reported, any number of examples, no torch needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import flotilla
from data import DataSettings
from data import load as load_data
from flotilla.serving.export import export
from flotilla.serving.formats.onnx_file import OnnxModel
from flotilla.serving.model import TierModel
from models.evaluation import evaluate
from protocol import Scalar
from tests.support import OF_ALL, Player

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("onnxruntime", reason="the extra `export`")
KINDS: dict[str, dict[str, Scalar]] = {
    "static batch norm": {"model": "cnn", "widths": "4, 8, 8, 8"},
    "exits": {"model": "cnn", "widths": "4, 8, 8, 8", "method": "depthfl"},
    "nets": {"model": "cnn", "widths": "8, 8, 8, 8", "method": "splitmix"},
    "private norms": {"model": "resnet", "widths": "4, 8, 8, 8", "method": "nefl"},
    "dual norms": {"model": "cnn", "widths": "4, 8, 8, 8", "adversarial": 0.5, "robust_mix": 0.3},
    "attention": {"model": "vit", "widths": "8, 8", "blocks": "1", "heads": 2},
    "norms by width": {"model": "cnn", "widths": "4, 8, 8, 8", "norm": "batch-per-width"},
    "masks": {"model": "cnn", "widths": "4, 8, 8, 8", "method": "fiarse"},
    "fairness": {"aggregation": "q-fedavg"},
    "IFCA": {"model": "cnn", "widths": "4, 8, 8, 8", "clustering": "ifca", "synthetic_groups": "rotations:2"},
    "CFL": {"clustering": "cfl", "synthetic_groups": "rotations:2"},
}
METHOD: dict[str, dict[str, Scalar]] = {method: {"method": method} for method in OF_ALL}
CASES = METHOD | KINDS
# One of each way to keep what a tier holds; every tier of every method goes with `make test-slow`.
FIRST = ["heterofl", "nefl", "splitmix", "depthfl", "fiarse", "attention"]


def check_file(content: bytes, model: TierModel) -> None:
    """It holds the network and nothing of the machine that wrote it."""
    assert not [path for path in (b"/root", b"/work", str(ROOT).encode(), b".py") if path in content]
    weights = sum(tensor.nbytes for tensor in model.network.state_dict().values())
    assert len(content) < weights + 40_000


@pytest.mark.parametrize("case", FIRST)
def test_the_file_is_the_tier(play: Player, tmp_path: Path, case: str) -> None:
    out = play.once(**CASES[case])
    (row,) = export(out.path, "b", "onnx", tmp_path)
    assert row.accuracy == out.summary["last"]["tiers"]["b"]["accuracy"]
    assert row.difference is not None
    assert row.difference <= 1e-4
    assert row.file is not None
    content, model = row.file.read_bytes(), flotilla.load(out.path, "b")
    runtime = OnnxModel(content)
    for count in (1, 7):
        x = torch.rand(count, 1, 8, 8)
        assert torch.allclose(torch.from_numpy(runtime.run(x.numpy())), model(x), atol=1e-4)
    check_file(content, model)


@pytest.mark.slow
@pytest.mark.parametrize("case", list(CASES))
def test_every_tier_is_in_a_file_of_its_own(play: Player, tmp_path: Path, case: str) -> None:
    """Each is loaded and exported; both have the accuracy that the run reported of it, to the last digit."""
    out = play.once(**CASES[case])
    reported = {"global": out.summary["last"]["accuracy"]}
    reported |= {name: tier["accuracy"] for name, tier in out.summary["last"]["tiers"].items()}
    test = load_data(DataSettings()).test
    usable = {tier: accuracy for tier, accuracy in reported.items() if accuracy is not None}
    assert len(usable) >= 2
    for tier, accuracy in usable.items():
        model = flotilla.load(out.path, tier)
        assert evaluate(model, test.inputs, test.labels).accuracy == accuracy
        (row,) = export(out.path, tier, "onnx", tmp_path)
        assert row.accuracy == accuracy
        assert row.difference is not None
        assert row.difference <= 1e-4
        assert row.file is not None
        check_file(row.file.read_bytes(), model)


def test_networks_of_every_cluster(play: Player, tmp_path: Path) -> None:
    out = play.once(**CASES["IFCA"])
    files = []
    for cluster in (0, 1):
        (row,) = export(out.path, "c", "onnx", tmp_path, cluster=cluster)
        assert row.file is not None
        model, x = flotilla.load(out.path, "c", cluster=cluster), torch.rand(3, 1, 8, 8)
        found = torch.from_numpy(OnnxModel(row.file.read_bytes()).run(x.numpy()))
        assert torch.allclose(found, model(x), atol=1e-4)
        files.append(row.file.name)
    assert files == ["tier-c.cluster0.onnx", "tier-c.cluster1.onnx"]


def test_a_device_without_torch(play: Player, tmp_path: Path) -> None:
    """What examples/onnx_device.py prints is what the network says; torch and this project cannot be imported there."""
    out = play.once(model="cnn", widths="4, 8, 8, 8")
    (row,) = export(out.path, "c", "onnx", tmp_path)
    picture = tmp_path / "digit.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)).save(picture)
    forbidden = "import sys; sys.modules.update(dict.fromkeys(('torch', 'flotilla', 'models', 'data')))"
    code = f"{forbidden}; import runpy; sys.argv[1:] = {[str(row.file), str(picture)]!r}; "
    code += f"runpy.run_path({str(ROOT / 'examples/onnx_device.py')!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    model = flotilla.load(out.path, "c")
    shares = torch.softmax(model(model.preprocess(picture)).detach(), 1)[0]
    name, share = done.stdout.split()[1:]
    assert name == model.classes[int(shares.argmax())]
    assert float(share) == pytest.approx(float(shares.max()), abs=1e-3)


def test_what_is_in_the_metadata(play: Player, tmp_path: Path) -> None:
    import onnx

    out = play.once(model="cnn", widths="4, 8, 8, 8")
    (row,) = export(out.path, "c", "onnx", tmp_path)
    told = json.loads({entry.key: entry.value for entry in onnx.load(row.file).metadata_props}["flotilla"])
    assert told["inputs"]["classes"] == [str(digit) for digit in range(10)]
    assert told["tier"] == "c"
    assert told["accuracy"] == row.accuracy
    assert told["preprocessing"] == [
        "grey, resized to 8 x 8 (bilinear)",
        "values from 0 (black) to 16 (white)",
        "(value - mean) / std per channel: float32 [N, 1 x 8 x 8]",
    ]
