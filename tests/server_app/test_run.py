from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from server_app import checkpoint
from tests.support import Player, play, run_of


def test_a_run_without_a_model_has_not_finished(tmp_path: Path) -> None:
    with (
        patch("server_app.run.save_file", side_effect=OSError(28, "No space left on device")),
        pytest.raises(OSError, match="No space left"),
    ):
        play(tmp_path / "run", num_server_rounds=1, num_clients=3)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "No space left" in summary["error"]


def test_a_full_disk_ends_no_training(play: Player) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise checkpoint.CheckpointError("not written (No space left on device)")

    with patch("server_app.checkpoint.save", full):
        out = play(num_clients=3)
    assert out.summary["status"] == "finished"
    assert out.hash == play(num_clients=3).hash


def test_an_interrupted_run_says_so_and_frees_its_folder(tmp_path: Path) -> None:
    def client(*_: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(tmp_path / "run", client=client, num_clients=3)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "stopped"
    assert not (tmp_path / "run" / "lock").exists()


def test_the_whole_folder_and_the_final_table(tmp_path: Path) -> None:
    """With report.html, which the other tests leave out."""
    lines: list[str] = []
    run_of(tmp_path / "run", lines=lines, num_clients=3, evaluate_every=1).execute()
    names = {path.name for path in (tmp_path / "run").iterdir()}
    expected = {
        "config.json",
        "metrics.jsonl",
        "summary.json",
        "checkpoints",
        "model.safetensors",
        "report.html",
        "events",
    }
    assert expected <= names
    assert (tmp_path / "latest").resolve() == (tmp_path / "run").resolve()
    text = "\n".join(lines)
    assert str(tmp_path / "run") in text
    assert "accuracy" in text.lower()
