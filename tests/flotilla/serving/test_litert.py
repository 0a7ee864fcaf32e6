"""LiteRT models: the tier itself, one example at a time, with what its inputs are in the file."""

from __future__ import annotations

import json
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch

import flotilla
from data import DataSettings
from data import load as load_data
from flotilla.serving.export import export
from flotilla.serving.formats.litert_file import LiteRTModel
from tests.support import Player

pytest.importorskip("litert_torch", reason="the extra `litert`")
ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.filterwarnings("ignore")  # of its own imports


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_the_model_is_the_tier(play: Player, tmp_path: Path, model: str) -> None:
    out = play.once(model=model, widths="8, 8, 8", num_clients=4)
    (row,) = export(out.path, "b", "litert", tmp_path)
    assert row.file == tmp_path / "tier-b.tflite"
    assert row.accuracy == out.summary["last"]["tiers"]["b"]["accuracy"]
    assert row.difference is not None
    assert row.difference <= 1e-4
    content = row.file.read_bytes()
    x = load_data(DataSettings()).test.inputs[:1]
    found = torch.from_numpy(LiteRTModel(content).run(x.numpy()))
    assert torch.allclose(found, flotilla.load(out.path, "b")(x), atol=1e-4)
    with ZipFile(row.file) as archive:
        told = json.loads(archive.read("flotilla.json"))
    assert (told["tier"], told["inputs"]["classes"][3]) == ("b", "3")
    assert not [path for path in (b"/root", b"/work", b"/tmp", str(ROOT).encode(), b".py") if path in content]
