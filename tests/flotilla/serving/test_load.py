"""Loading what a run left: what it says when that is not possible, and what it never does."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import flotilla
from flotilla.serving import load as loading
from flotilla.serving.load import CannotLoad, FinishedRun, NoStatistics, to_export
from flotilla.serving.model import TierModel
from flotilla.serving.tier_file import write_tier_file
from tests.support import Player


@pytest.fixture
def run(play: Player, tmp_path: Path) -> Path:
    """A finished run that a test may spoil."""
    folder = tmp_path / "run"
    shutil.copytree(play.once(method="heterofl").path, folder)
    return folder


def said(path: Path, tier: str = "c") -> str:
    with pytest.raises(CannotLoad) as caught:
        flotilla.load(path, tier)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_an_unknown_tier(run: Path) -> None:
    assert "no tier 'z': it has a, b, c, and global" in said(run, "z")


def test_of_all_tiers_one_without_statistics_is_left_out_and_named(
    run: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking, usable = {"b"}, loading.tier_of
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)

    def tier_of(opened: FinishedRun, tier: str, cluster: int | None = None) -> TierModel:
        if tier in lacking:
            raise NoStatistics(f"tier {tier}: no statistics")
        return usable(opened, tier, cluster)

    monkeypatch.setattr(loading, "tier_of", tier_of)
    _, models, _ = to_export(run, "all", None)
    assert [model.card.tier for model in models] == ["a", "c"]
    assert caplog.messages == ["tier b: no statistics"]
    with pytest.raises(CannotLoad, match="tier b"):
        to_export(run, "b", None)
    lacking |= {"a", "c"}
    with pytest.raises(CannotLoad, match="tier a"):
        to_export(run, "all", None)


def test_what_is_no_run(tmp_path: Path) -> None:
    assert "no run folder" in said(tmp_path)
    assert "no run folder" in said(tmp_path / "nowhere")


@pytest.mark.parametrize("status", ["stopped", "failed"])
def test_a_run_that_has_not_finished(run: Path, status: str) -> None:
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"status": status}))
    assert f"not finished: {status} after round 2 (go on with it: flotilla run --resume" in said(run)
    (run / "summary.json").unlink()
    assert "not finished" in said(run)


@pytest.mark.parametrize("name", ["model.safetensors", "tiers.safetensors"])
def test_a_flipped_bit(run: Path, name: str) -> None:
    data = bytearray((run / name).read_bytes())
    data[-1] ^= 1
    (run / name).write_bytes(data)
    assert f"{name} is damaged" in said(run)
    (run / name).unlink()
    assert f"{name} is missing" in said(run)


@pytest.mark.parametrize("text", ["", "[]", '{"status": "finished"}', '{"status": "finished", "model": null}'])
def test_a_damaged_summary(run: Path, text: str) -> None:
    (run / "summary.json").write_text(text)
    assert "summary.json is damaged" in said(run)


def test_another_version(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    del summary["model"]["tiers_sha256"]
    (run / "summary.json").write_text(json.dumps(summary))
    assert "another version of Flotilla wrote it" in said(run)


def test_a_file_of_another_version(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "c.safetensors"
    write_tier_file(flotilla.load(run, "c"), file)
    with safe_open(file, framework="pt") as opened:
        told = json.loads(opened.metadata()["flotilla"])
    save_file(load_file(file), file, metadata={"flotilla": json.dumps(told | {"format": 99})})
    assert "another version of Flotilla wrote it: format 99" in said(file)
    save_file(load_file(file), file)
    assert "no file of `flotilla export`" in said(file)
    file.write_bytes(b"PK")
    assert "no file of `flotilla export`" in said(file)


def test_a_file_that_names_code_is_not_followed(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "c.safetensors"
    write_tier_file(flotilla.load(run, "c"), file)
    with safe_open(file, framework="pt") as opened:
        told = json.loads(opened.metadata()["flotilla"])
    told["network"]["name"] = "antigravity:geohash"
    save_file(load_file(file), file, metadata={"flotilla": json.dumps(told)})
    assert "its network is 'antigravity:geohash', which is code" in said(file)
    assert "antigravity" not in sys.modules


def test_a_file_gives_the_same_network(run: Path, tmp_path: Path) -> None:
    file, x = tmp_path / "c.safetensors", torch.rand(5, 1, 8, 8)
    model = flotilla.load(run, "c")
    write_tier_file(model, file)
    again = flotilla.load(file)
    assert torch.equal(model(x), again(x))
    assert again.card.accuracy == model.card.accuracy
    assert again.classes == model.classes
    assert "no tier 'a': it has c" in said(file, "a")


def test_importing_flotilla_stays_light() -> None:
    code = "import sys, flotilla; print(sorted({'torch', 'flwr', 'numpy', 'typer'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
