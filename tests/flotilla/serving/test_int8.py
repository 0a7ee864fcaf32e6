"""Files of 8 bits: made, compared with float in the same run, and kept only where they are better."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

import flotilla
from data import DataSettings
from data import load as load_data
from flotilla.serving.export import export
from flotilla.serving.export_table import Exported, table, why_not
from flotilla.serving.formats.int8 import Int8
from flotilla.serving.formats.onnx_file import OnnxModel
from flotilla.serving.formats.runtime import CannotExport, logits_of
from tests.support import Player

onnx: Any = pytest.importorskip("onnx", reason="the extra `export`")
ROOT = Path(__file__).resolve().parents[3]
ROW = Exported(
    tier="a",
    file=Path("a.onnx"),
    parameters=5,
    bytes=100,
    eager_seconds=1e-3,
    seconds=1e-4,
    accuracy=0.9,
    difference=1e-6,
)


@pytest.fixture(scope="module")
def run(play: Player) -> Path:
    return play.once(model="mlp", widths="128, 64", num_clients=4, num_server_rounds=3).path


@pytest.mark.slow
def test_an_int8_file_is_the_tier_nearly(run: Path, tmp_path: Path) -> None:
    full, small = export(run, "a", "onnx", tmp_path, int8=Int8(force=True))
    assert (full.numbers, small.numbers) == ("float32", "int8")
    assert small.file == tmp_path / "tier-a.int8.onnx"
    assert small.bytes < 0.6 * full.bytes
    assert small.seconds is not None
    assert small.accuracy is not None
    assert small.accuracy == pytest.approx(full.accuracy, abs=0.03)
    assert small.difference is not None
    assert full.difference is not None
    assert full.difference < 1e-4 < small.difference  # it really computes with 8 bits
    content, model = small.file.read_bytes(), flotilla.load(run, "a")
    test = load_data(DataSettings()).test
    for count in (1, 7):  # whatever was exported and calibrated with
        found, wanted = logits_of(OnnxModel(content), test.inputs[:count]), model(test.inputs[:count]).detach()
        assert float((found - wanted).abs().max()) <= 1.01 * small.difference
    proto = onnx.load(small.file)
    assert {tensor.data_type for tensor in proto.graph.initializer} >= {onnx.TensorProto.INT8}
    told = json.loads({entry.key: entry.value for entry in proto.metadata_props}["flotilla"])
    assert told["precision"] == "int8"
    assert told["inputs"]["classes"] == [str(digit) for digit in range(10)]
    paths = (b"/root", b"/work", b"/tmp", str(ROOT).encode(), str(tmp_path).encode(), b".py")
    assert not [path for path in paths if path in content]


def test_where_float_is_better_it_is_kept(run: Path, tmp_path: Path) -> None:
    """One of 8 bits that takes twice as long is not written, and an older one goes."""
    old = tmp_path / "tier-c.int8.onnx"
    old.write_bytes(b"of another run")
    with patch("flotilla.serving.export.latencies", return_value=[3e-4, 1e-4, 2e-4]):  # PyTorch, float, 8 bits
        _, small = rows = export(run, "c", "onnx", tmp_path, check=False, int8=Int8())
    assert small.file is None
    assert "2.00x the time" in small.reason
    assert [file.name for file in tmp_path.iterdir()] == ["tier-c.onnx"]
    assert table(rows).splitlines()[2].endswith(f"not kept, float is better: {small.reason}")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bytes": 120}, "1.20x the bytes"),
        ({"bytes": 100}, "1.00x the bytes"),
        ({"bytes": 30, "seconds": 1.5e-4}, "1.50x the time"),
        ({"bytes": 30, "accuracy": 0.88}, "2.00 points less"),
        ({"bytes": 120, "seconds": 2e-4, "accuracy": 0.5}, "1.20x the bytes, 2.00x the time, 40.00 points less"),
        ({"bytes": 30}, ""),
        ({"bytes": 30, "seconds": 5e-5, "accuracy": 0.895}, ""),
        ({"bytes": 30, "accuracy": None}, ""),
    ],
)
def test_what_is_better(change: dict[str, Any], reason: str) -> None:
    assert why_not(replace(ROW, **change), ROW) == reason


def test_the_table_names_numbers_only_where_there_are_several() -> None:
    assert table([ROW]).split()[:3] == ["tier", "parameters", "bytes"]
    assert table([ROW, replace(ROW, numbers="int8")]).split()[:3] == ["tier", "numbers", "parameters"]


@pytest.mark.slow
def test_files_that_calibrate(run: Path, tmp_path: Path) -> None:
    """What they hold decides the scales: values far beyond the data's leave few steps for the data."""
    values = load_data(DataSettings()).train_examples.values.numpy()[:50]
    usual, far = tmp_path / "usual.npy", tmp_path / "far.npy"
    np.save(usual, values)
    np.save(far, np.concatenate([values, values * 1000.0]))
    differences = [
        export(run, "a", "onnx", tmp_path, int8=Int8(inputs=(file,), force=True))[1].difference for file in (usual, far)
    ]
    assert None not in differences
    assert differences[1] > 3 * differences[0]  # type: ignore[operator]


def test_a_server_without_training_data(run: Path, tmp_path: Path) -> None:
    """Then files have to be given; what the run was evaluated on is no calibration."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    told = json.loads((folder / "config.json").read_text())
    told["config"] |= {"dataset": "image-folder", "partition": "own", "data-root": ""}
    (folder / "config.json").write_text(json.dumps(told))
    with pytest.raises(CannotExport, match="no training data: --calibrate FILE"):
        export(folder, "a", "onnx", tmp_path, check=False, int8=Int8())


@pytest.mark.parametrize("to", ["safetensors", "executorch", "litert"])
def test_other_files_have_no_int8(run: Path, tmp_path: Path, to: str) -> None:
    with pytest.raises(CannotExport, match=f"--int8: for --to onnx, not for {to}"):
        export(run, "a", to, tmp_path, int8=Int8())
    assert list(tmp_path.iterdir()) == []
