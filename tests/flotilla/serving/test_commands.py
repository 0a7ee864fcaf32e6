"""`flotilla predict` and `flotilla export` as a user meets them."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

import flotilla
from data import DataSettings
from data import load as load_data
from flotilla.serving.export import export
from flotilla.serving.formats.onnx_file import OnnxModel
from flotilla.serving.formats.runtime import CannotExport
from protocol import Scalar
from server_app.folder.staged_file import sha256_of
from server_app.folder.tiers_file import TIERS, read_tiers
from tests.corpora import write_har, write_sst2
from tests.support import Player

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from typer.testing import CliRunner

    from flotilla.cli import app

RUN: dict[str, Scalar] = {"model": "cnn", "widths": "4, 8, 8, 8"}


def call(*words: object) -> tuple[int, list[str], str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, done.stdout.splitlines(), done.stderr


def refused(*words: object) -> str:
    code, printed, error = call(*words)
    assert (code, printed) == (2, [])
    assert error.startswith("flotilla: ")
    assert error.count("\n") == 1
    return error


def test_pictures_rows_and_arrays_agree(play: Player, tmp_path: Path) -> None:
    run, data = play.once(**RUN).path, load_data(DataSettings())
    values = data.test_examples.values.numpy()[:5]
    np.save(tmp_path / "five.npy", values)
    np.savetxt(tmp_path / "five.csv", values.reshape(5, 64), fmt="%d", delimiter=",")
    Image.fromarray((values[0, 0].astype(float) * 255 / 16).round().astype(np.uint8)).save(tmp_path / "one.png")
    files = [tmp_path / "one.png", tmp_path / "five.npy", tmp_path / "five.csv"]
    code, printed, error = call("predict", run, *files, "--tier", "b", "--json")
    assert (code, error) == (0, "")
    told = [json.loads(line) for line in printed]
    shares = torch.softmax(flotilla.load(run, "b")(data.test.inputs[:5]).double(), 1)
    for place, row in enumerate([0, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4]):
        wanted = shares[row].tolist()
        assert list(told[place]["probabilities"].values()) == pytest.approx(wanted, abs=2e-2 if place == 0 else 1e-6)
        assert told[place]["class"] == str(int(shares[row].argmax()))
    assert [one["row"] for one in told] == [None, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4]


def test_texts(play: Player, tmp_path: Path) -> None:
    words = write_sst2(tmp_path / "data")
    keys: dict[str, Any] = {"dataset": "sst2", "data_root": str(tmp_path / "data"), "model": "gru"}
    out = play(widths="6, 8, 8", vocabulary_size=words + 2, **keys)
    test = load_data(DataSettings(dataset="sst2", data_root=str(tmp_path / "data"), vocabulary_size=words + 2)).test
    lines = [line[2:] for line in (tmp_path / "data/SST2/stsa.binary.test").read_text().splitlines()]
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    shutil.rmtree(tmp_path / "data")  # nothing but the folder is needed
    model = flotilla.load(out.path, "b")
    assert torch.equal(model.preprocess(lines), test.inputs)
    assert torch.equal(model.preprocess(lines[0]), test.inputs[:1])
    code, printed, _ = call("predict", out.path, tmp_path / "texts.txt", "--tier", "b")
    assert (code, len(printed)) == (0, len(lines))
    assert {line.split()[1] for line in printed} <= {"negative", "positive"}


def test_signals(play: Player, tmp_path: Path) -> None:
    write_har(tmp_path / "data")
    root = str(tmp_path / "data")
    out = play(dataset="har", data_root=root, model="cnn1d", widths="8, 8, 8", num_clients=3)
    data = load_data(DataSettings(dataset="har", data_root=root))
    model = flotilla.load(out.path, "a")
    assert torch.equal(model.preprocess(data.test_examples.values), data.test.inputs)
    np.save(tmp_path / "one.npy", data.test_examples.values[0].numpy())
    code, printed, _ = call("predict", out.path, tmp_path / "one.npy", "--tier", "a")
    assert code == 0
    assert printed[0].split("  ")[1] in (
        "walking",
        "walking upstairs",
        "walking downstairs",
        "sitting",
        "standing",
        "lying",
    )
    assert "has no pictures" in refused("predict", out.path, picture(tmp_path), "--tier", "a")


def picture(folder: Path) -> Path:
    Image.new("RGB", (5, 7)).save(folder / "a.jpg")
    return folder / "a.jpg"


WRONG: Sequence[tuple[str, bytes, str]] = [
    ("none.png", b"", "no such file"),
    ("text.png", b"hello", "cannot identify image file"),
    ("short.csv", b"1,2,3\n", "values of shape (1, 3): allowed is (1, 8, 8) or (N, 1, 8, 8)"),
    ("words.csv", b"a,b\n", "row 1: 'a, b' are no numbers"),
    ("uneven.csv", b"1,2\n1\n", "rows of different length"),
    ("nan.csv", ",".join(["nan"] * 64).encode(), "a value is not finite"),
    ("pickle.npy", b"\x80\x04N.", ""),
]


@pytest.mark.parametrize(("name", "content", "wanted"), WRONG)
def test_a_wrong_file_is_one_line(play: Player, tmp_path: Path, name: str, content: bytes, wanted: str) -> None:
    file = tmp_path / name
    if content:
        file.write_bytes(content)
    error = refused("predict", play.once(**RUN).path, file)
    assert str(file) in error
    assert wanted in error


def test_a_wrong_run_or_tier_is_one_line(play: Player, tmp_path: Path) -> None:
    assert "no run folder" in refused("predict", tmp_path, picture(tmp_path))
    assert "no tier 'z': it has a, b, c" in refused("export", play.once(**RUN).path, "--tier", "z")


def test_export_to_safetensors(play: Player, tmp_path: Path) -> None:
    run = play.once(**RUN).path
    code, printed, _ = call("export", run, "--to", "safetensors", "--out", tmp_path)
    assert code == 0
    assert [line.split()[0] for line in printed] == ["tier", "a", "b", "c"]
    file, x = tmp_path / "tier-b.safetensors", torch.rand(3, 1, 8, 8)
    assert torch.equal(flotilla.load(file)(x), flotilla.load(run, "b")(x))
    assert call("predict", file, picture(tmp_path))[0] == 0


def test_a_file_that_computes_something_else_is_not_written(play: Player, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    run = play.once(**RUN).path
    honest = OnnxModel.run
    with (
        patch.object(OnnxModel, "run", lambda self, x: honest(self, x) + np.float32(1e-3)),
        pytest.raises(CannotExport, match=r"its logits differ from PyTorch's by 1\.0e-03"),
    ):
        export(run, "c", "onnx", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_options_of_export_that_cannot_be(play: Player, tmp_path: Path) -> None:
    run = play.once(**RUN).path
    assert refused("export", run, "--force") == "flotilla: --calibrate and --force: with --int8 only\n"
    assert "--int8: for --to onnx, not for litert" in refused("export", run, "--to", "litert", "--int8")
    assert "--train: for --to executorch only" in refused("export", run, "--train")
    words = tmp_path / "words.csv"
    words.write_text("a,b\n")
    said = refused("export", run, "--int8", "--no-check", "--calibrate", words, "--out", tmp_path)
    assert "words.csv: row 1: 'a, b' are no numbers" in said


@pytest.mark.parametrize("options", [("--to", "safetensors"), ("--to", "executorch", "--train")])
def test_export_says_what_to_allow(play: Player, tmp_path: Path, options: Sequence[str]) -> None:
    """A network by import path is code, and is imported only where its owner says so."""
    run = tmp_path / "run"
    shutil.copytree(play.once(**RUN).path, run)
    summary = json.loads((run / "summary.json").read_text())
    records, model = read_tiers(run / TIERS)
    network = json.dumps(json.loads(records.network) | {"name": "my_lab.nets:Edge"})
    (run / TIERS).write_bytes(b"".join(replace(records, network=network).serialised(model)))
    summary["model"]["tiers_sha256"] = sha256_of(run / TIERS)
    (run / "summary.json").write_text(json.dumps(summary))
    with patch("flotilla.serving.formats.executorch_file.check_installed"):
        assert "--allow 'my_lab.*' imports it" in refused("export", run, *options, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["onnx", "executorch", "litert"])
def test_a_missing_package_says_what_to_install(play: Player, tmp_path: Path, to: str) -> None:
    def nothing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    extra = {"onnx": "export"}.get(to, to)
    with patch("flotilla.serving.formats.runtime.import_module", nothing):
        said = refused("export", play.once(**RUN).path, "--to", to, "--out", tmp_path)
    assert said.endswith(f": pip install 'flotilla[{extra}]'\n")
    assert list(tmp_path.iterdir()) == []
