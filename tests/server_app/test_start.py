"""A new run from an earlier model: names and shapes matched, differences named, heads of other classes left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.errors import SettingError
from tests.support import Outcome, Player, configured, play

KEYS: dict[str, Any] = {"num_clients": 3, "num_server_rounds": 1}


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return Player(lambda: tmp_path_factory.mktemp("before") / "run")(**KEYS)


def _refusal(start: Path, **keys: Any) -> str:
    with pytest.raises(SettingError) as caught:
        configured(start=str(start), **KEYS | keys)
    assert caught.value.key == "start"
    return str(caught.value)


def test_a_run_starts_where_another_ended(before: Outcome, tmp_path: Path) -> None:
    """Without learning, what it leaves is what it started from; from the folder and from the file."""
    for number, place in enumerate((before.path, before.path / "model.safetensors")):
        out = play(tmp_path / str(number), start=str(place), learning_rate=1e-30, weight_decay=0.0, **KEYS)
        assert [row["round"] for row in out.rows] == [1]
        assert any(line.startswith(f"starting from {before.path}") for line in out.lines)
        assert out.hash == before.hash


def test_a_start_is_followed_by_training_of_its_own(before: Outcome, tmp_path: Path) -> None:
    out = play(tmp_path / "run", start=str(before.path), method="fedavg", seed=3, **KEYS)
    assert out.rows[0]["train_loss"] < before.rows[0]["train_loss"]
    assert out.hash != before.hash


def test_what_differs_is_named(before: Outcome, tmp_path: Path) -> None:
    assert "there, [" in (said := _refusal(before.path, widths="16, 4"))
    assert "of other shapes:" in said
    assert "start-new-heads" not in said
    tensors = load_file(before.path / "model.safetensors")
    first = next(iter(tensors))
    other = {f"old.{name}" if name == first else name: tensor for name, tensor in tensors.items()}
    save_file(other, tmp_path / "other.safetensors")
    said = _refusal(tmp_path / "other.safetensors")
    assert f"it lacks {first}" in said
    assert f"not of this network: old.{first}" in said


def test_a_head_of_another_number_of_classes_is_drawn_on_request(before: Outcome, tmp_path: Path) -> None:
    """The same trunk under a head for 3 classes; which tensors that is, only their axes say."""
    tensors = load_file(before.path / "model.safetensors")
    heads = [name for name, tensor in tensors.items() if tensor.shape[0] == 10]
    save_file(
        {name: tensor[:3].clone() if name in heads else tensor for name, tensor in tensors.items()},
        tmp_path / "three.safetensors",
    )
    assert "start-new-heads = true draws these anew" in _refusal(tmp_path / "three.safetensors")
    keys: dict[str, Any] = KEYS | {"learning_rate": 1e-30, "weight_decay": 0.0}
    out = play(tmp_path / "run", start=str(tmp_path / "three.safetensors"), start_new_heads=True, **keys)
    drawn = play(tmp_path / "drawn", **keys).state
    assert all(torch.equal(out.state[name], (drawn if name in heads else tensors)[name]) for name in tensors)
    assert any(f"{len(heads)} drawn: {', '.join(sorted(heads))}" in line for line in out.lines)


def test_what_is_no_start(before: Outcome, tmp_path: Path) -> None:
    assert "there is none" in _refusal(tmp_path / "nothing.safetensors")
    (tmp_path / "torn.safetensors").write_bytes((before.path / "model.safetensors").read_bytes()[:99])
    assert "readable" in _refusal(tmp_path / "torn.safetensors")
    (tmp_path / "state.pt").write_bytes(b"PK")
    assert ".safetensors" in _refusal(tmp_path / "state.pt")
    (tmp_path / "empty").mkdir()
    assert "finished run" in _refusal(tmp_path / "empty")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "summary.json").write_text('{"status": "stopped", "model": null}')
    assert "--resume" in _refusal(unfinished)
    assert "ifca" in _refusal(before.path, clustering="ifca")


def test_values_that_are_not_finite_are_refused(before: Outcome, tmp_path: Path) -> None:
    tensors = load_file(before.path / "model.safetensors")
    name = next(iter(tensors))
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")
    with pytest.raises(SettingError, match=f"finite values \\({name}"):
        play(tmp_path / "run", start=str(tmp_path / "nan.safetensors"), **KEYS)


def test_resuming_needs_the_start_no_more(before: Outcome, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes((before.path / "model.safetensors").read_bytes())
    out = play(tmp_path / "run", start=str(copy), **KEYS)
    copy.unlink()
    keys: dict[str, Any] = KEYS | {"num_server_rounds": 2}
    assert play(tmp_path, resume=str(out.path), start=str(copy), **keys).summary["rounds"] == 2
