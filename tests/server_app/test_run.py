from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from flwr.app import Message

from flotilla.aftermath import aftermath
from server_app.folder import checkpoint, tensor_file
from server_app.folder.run_folder import RunFolder
from tests.support import Player, run_of, trains
from tests.support import play as play_in


def test_a_run_without_a_model_has_not_finished(tmp_path: Path) -> None:
    with (
        patch("server_app.folder.staged_file.write_hashed", side_effect=OSError(28, "No space left on device")),
        pytest.raises(OSError, match="No space left"),
    ):
        play_in(tmp_path / "run", num_server_rounds=1, num_clients=3)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "No space left" in summary["error"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_ends_no_training(tmp_path: Path, play: Player) -> None:
    """In round 2 there is no room for the checkpoint, says the system itself; in round 3 there is again."""
    checkpoints = tmp_path / "run" / "checkpoints"

    def faults(request: Message, reply: Message) -> list[Message]:
        if trains(request, 0, [2]):
            (checkpoints / f".tmp-{os.getpid()}").symlink_to("/dev/full")
        return [reply]

    keys: dict[str, Any] = {"num_clients": 3, "num_server_rounds": 3}
    out, reference = play_in(tmp_path / "run", faults, **keys), play(**keys)
    assert out.summary["status"] == "finished"
    assert out.hash == reference.hash
    assert ["checkpoint_error" in row for row in out.rows] == [False, True, False]
    assert "round-000002.json: not written" in out.rows[1]["checkpoint_error"]
    assert "No space left on device" in out.rows[1]["checkpoint_error"]
    # What it could not write is not there, nor a part of it, and what it could is as it would have been.
    assert [path.name for path in sorted(checkpoints.glob("*.json"))] == ["round-000001.json", "round-000003.json"]
    assert not list(checkpoints.glob(".tmp-*"))
    found, wanted = (checkpoint.load(path / "checkpoints", 3) for path in (out.path, reference.path))
    state = [name for name in wanted.tensors if name.startswith("clusters/state/")]
    assert state
    assert all(torch.equal(found.tensors[name], wanted.tensors[name]) for name in state)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mounting, check=False, capture_output=True).returncode:
        pytest.skip("may not mount a file system here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_full_to_the_last_byte_ends_no_training(small_disk: Path, play: Player) -> None:
    """From the training of round 2 to that of round 4; it takes neither checkpoints nor lines of metrics."""
    filler = small_disk / "somebody's"

    def faults(request: Message, reply: Message) -> list[Message]:
        if trains(request, 0, [2]):
            with open(filler, "wb", buffering=0) as stream, suppress(OSError):
                while True:
                    stream.write(bytes(4096))
        if trains(request, 0, [4]):
            filler.unlink()
        return [reply]

    keys: dict[str, Any] = {"num_clients": 3, "num_server_rounds": 4}
    out = play_in(small_disk / "run", faults, **keys)
    assert out.summary["status"] == "finished"
    assert out.hash == play(**keys).hash
    assert [row["round"] for row in out.rows] == [1, 2, 3, 4]
    errors = [row.get("checkpoint_error", "") for row in out.rows]
    assert ["No space left on device" in error for error in errors] == [False, True, True, False]


def test_lines_that_a_full_disk_did_not_take_are_written_when_it_has_room(tmp_path: Path) -> None:
    append, lines = RunFolder.append_metrics, [1]

    def full(self: RunFolder, row: dict[str, Any]) -> None:
        if row["round"] not in lines:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(self, row)

    def room(request: Message, reply: Message) -> list[Message]:
        lines.extend([2, 3, 4] if trains(request, 0, [4]) else [])
        return [reply]

    keys: dict[str, Any] = {"num_clients": 3, "num_server_rounds": 4}
    with patch.object(RunFolder, "append_metrics", full):
        out = play_in(tmp_path / "run", room, **keys)
        assert [row["round"] for row in out.rows] == [1, 2, 3, 4]
        lines[:] = [1, 2, 3]
        with pytest.raises(OSError, match="No space left"):  # a run whose last line is missing has not finished
            play_in(tmp_path / "another", **keys)


def test_a_run_goes_on_after_the_checkpoint_before_a_full_disk(tmp_path: Path, play: Player) -> None:
    """The disk filled up while the tensors were written, and the server was killed before it had room again."""
    write, fsync = tensor_file.write_hashed, os.fsync

    def full(file: Path, pieces: Any) -> Any:
        if list((file.parent).glob("round-000001.json")):
            with patch("os.fsync", side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))):
                return write(file, pieces)
        return write(file, pieces)

    keys: dict[str, Any] = {"num_clients": 3, "num_server_rounds": 3}
    with patch("server_app.folder.checkpoint.write_hashed", full):
        out = play_in(tmp_path / "run", **keys | {"num_server_rounds": 2})
    assert os.fsync is fsync
    assert ["checkpoint_error" in row for row in out.rows] == [False, True]
    again = play_in(tmp_path, resume=str(out.path), **keys)
    assert again.hash == play(**keys).hash
    assert [row["round"] for row in again.rows] == [1, 2, 3]
    assert not any("checkpoint_error" in row for row in again.rows)


def test_an_interrupted_run_says_so_and_frees_its_folder(tmp_path: Path) -> None:
    def client(*_: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play_in(tmp_path / "run", client=client, num_clients=3)
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


def test_a_run_says_how_parts_are_trained_later_too(play: Player) -> None:
    """Block-wise training freezes what it has trained, which only the loop over autograd does."""
    keys: dict[str, Any] = {"method": "blockwise", "model": "cnn", "widths": "4, 4", "num_clients": 2}
    for rounds in (1, 4):
        out = play(num_server_rounds=rounds, **keys)
        trained = json.loads((out.path / "config.json").read_text())["trained"]
        assert set(trained.values()) == {"fused; later loop: a network that is frozen in part"}


def test_an_interrupt_is_named_by_whoever_writes_the_summary(play: Player, capsys: pytest.CaptureFixture[str]) -> None:
    """The run itself, or the command where the server was gone before it could."""

    def interrupted(request: Message, reply: Message) -> list[Message]:
        if trains(request, rounds=[2]):
            raise KeyboardInterrupt
        return [reply]

    folder = play.new_folder()
    with pytest.raises(KeyboardInterrupt):
        play_in(folder, interrupted, num_server_rounds=3)
    for code, why in ((0, "stopped by SIGINT"), (130, "stopped by SIGINT"), (143, "stopped by SIGTERM"), (1, "killed")):
        aftermath(folder, code, ["flotilla", "run"])
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["status"] == "stopped"
        assert why in summary["error"]
        (folder / "summary.json").unlink()
    assert "go on with it: flotilla run --resume" in capsys.readouterr().err
