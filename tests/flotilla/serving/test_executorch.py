"""ExecuTorch programs: the tier itself, and programs that train, which are written only with PyTorch's gradients."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

import flotilla
from data import DataSettings
from data import load as load_data
from flotilla.serving.export import export
from flotilla.serving.export_training import export_training, training_table
from flotilla.serving.formats.executorch_file import ExecuTorchModel
from flotilla.serving.formats.runtime import CannotExport
from flotilla.serving.formats.training_file import TrainingProgram
from protocol import Scalar
from tests.support import Player

pytest.importorskip("executorch.exir", reason="the extra `executorch`")
ROOT = Path(__file__).resolve().parents[3]
MLP: dict[str, Scalar] = {"model": "mlp", "num_clients": 4}
STRIDED: dict[str, Scalar] = {"model": "cnn-strided", "widths": "8, 8, 16", "num_clients": 4, "batch_size": 16}
PATHS = (b"/root", b"/work", b"/tmp", str(ROOT).encode(), b".py")

# Its own imports warn, of torchao and of its own schemas.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_the_program_is_the_tier(play: Player, tmp_path: Path) -> None:
    out = play.once(**MLP)
    (row,) = export(out.path, "b", "executorch", tmp_path)
    assert row.file == tmp_path / "tier-b.pte"
    assert row.accuracy == out.summary["last"]["tiers"]["b"]["accuracy"]
    assert row.difference is not None
    assert row.difference <= 1e-4
    content = row.file.read_bytes()
    program = ExecuTorchModel(content)
    told = json.loads(program.described)
    assert (told["tier"], told["inputs"]["classes"][3]) == ("b", "3")
    assert not [path for path in PATHS if path in content]
    x = load_data(DataSettings()).test.inputs[:1]
    assert torch.allclose(torch.from_numpy(program.run(x.numpy())), flotilla.load(out.path, "b")(x), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["cnn", "cnn-strided", "resnet", "vit"])
def test_networks(play: Player, tmp_path: Path, model: str) -> None:
    keys: dict[str, Scalar] = {"widths": "8, 8, 8, 8"}
    if model == "vit":
        keys = {"widths": "8, 8", "blocks": "1", "heads": 2}
    out = play.once(model=model, **keys)
    for row in export(out.path, "all", "executorch", tmp_path):
        assert row.accuracy == out.summary["last"]["tiers"][row.tier]["accuracy"]


@pytest.mark.slow
def test_a_program_that_trains(play: Player, tmp_path: Path) -> None:
    """Its gradients are PyTorch's, and with its own SGD the loss falls."""
    (row,) = rows = export_training(play.once(**STRIDED).path, "b", tmp_path)
    print(training_table(rows))
    assert row.difference < 1e-4
    assert row.batch == 16
    content = row.file.read_bytes()
    assert not [path for path in PATHS if path in content]
    data = load_data(DataSettings()).train
    program, losses = TrainingProgram(content, rate=0.1), []
    for step in range(40):
        rows_ = slice(16 * (step % 4), 16 * (step % 4) + 16)
        losses.append(program.gradients(data.inputs[rows_], data.labels[rows_])[0])
        program.step()
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])


@pytest.mark.slow
def test_behind_max_pooling_it_is_refused(play: Player, tmp_path: Path) -> None:
    run = play.once(model="cnn", widths="4, 8, 8, 8").path
    with pytest.raises(CannotExport, match=r"behind max-pooling .* issue 21686.*cnn-strided"):
        export_training(run, "b", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_wrong_gradients_are_not_written(play: Player, tmp_path: Path) -> None:
    run, honest = play.once(**MLP).path, TrainingProgram.gradients

    def off(self: TrainingProgram, x: Tensor, y: Tensor) -> tuple[float, Mapping[str, Tensor]]:
        loss, found = honest(self, x, y)
        return loss, {name: one * 1.01 for name, one in found.items()}

    with patch.object(TrainingProgram, "gradients", off), pytest.raises(CannotExport, match="gradients of its program"):
        export_training(run, "b", tmp_path)
    assert list(tmp_path.iterdir()) == []
