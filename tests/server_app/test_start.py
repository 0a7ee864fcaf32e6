"""A new run from an earlier model: names and shapes matched, differences named, heads of other classes left out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.algebra.axes import Along, Axis, Kind, TensorLayout, heads
from models.errors import SettingError
from models.networks.build import initial_state, layout
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from server_app.folder.class_names import reordered
from server_app.folder.start import found_start
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


# ---- classes by their names ------------------------------------------------------------------------------------------

NAMES = ("ant", "bee", "cow")
NET = completed(NetworkSpec("mlp", (4,), 3, widths=(5,)))


def _state() -> dict[str, torch.Tensor]:
    return initial_state(NET, torch.Generator().manual_seed(1))


def _file(folder: Path, names: Sequence[str]) -> Path:
    """A file as `flotilla export` leaves it, as far as a start reads it."""
    told = json.dumps({"format": 1, "inputs": {"classes": list(names)}})
    save_file(_state(), folder / "tier.safetensors", {"flotilla": told})
    return folder / "tier.safetensors"


def test_rows_of_a_head_are_taken_by_name(tmp_path: Path) -> None:
    place, there = _file(tmp_path, ("cow", "ant", "bee")), _state()
    state = {name: torch.zeros_like(tensor) for name, tensor in there.items()}
    start = found_start(str(place), layout(NET), new_heads=False, classes=NAMES)
    assert "classes by their names, which stand in another order there" in start.load_into(state)
    counting = heads(layout(NET))
    assert len(counting) == 2
    for name, tensor in there.items():
        assert torch.equal(state[name], tensor[[1, 2, 0]] if name in counting else tensor)


def test_rows_within_a_dimension_of_something_else_move_with_it() -> None:
    axes = {"c": Axis("c", 3, Kind.CLASS), "w": Axis("w", 2)}
    declared = TensorLayout(shape=(2, 12), dims=(Along("w"), Along("c", 2, 2)))
    tensor = torch.arange(24.0).view(2, 12)
    found = reordered(tensor, declared, axes, (2, 0, 1))
    assert found[0].tolist() == [4, 5, 0, 1, 2, 3, 10, 11, 6, 7, 8, 9]
    assert torch.equal(reordered(tensor, declared, axes, ()), tensor)


@pytest.mark.parametrize("unknown", [(), ("0", "1", "2")])
def test_where_one_side_has_no_names_rows_are_taken_as_they_are(tmp_path: Path, unknown: tuple[str, ...]) -> None:
    for here, there in ((NAMES, unknown), (unknown, NAMES), (NAMES, NAMES)):
        start = found_start(str(_file(tmp_path, there)), layout(NET), new_heads=False, classes=here)
        assert (start.order, start.drawn) == ((), ())


def test_other_names_are_refused_or_their_head_is_drawn(tmp_path: Path) -> None:
    place = str(_file(tmp_path, ("ant", "dog", "eel")))
    with pytest.raises(SettingError) as caught:
        found_start(place, layout(NET), new_heads=False, classes=NAMES)
    said = "other classes: 1 is 'dog' there, 'bee' here, 2 is 'eel' there, 'cow' here; start-new-heads = true draws"
    assert said in str(caught.value)
    start = found_start(place, layout(NET), new_heads=True, classes=NAMES)
    assert set(start.drawn) == heads(layout(NET))


def test_a_run_of_other_classes_is_refused_by_their_names(tmp_path: Path) -> None:
    draws = np.random.default_rng(1)
    for file, names in (("old", ["ant", "bee", "cow"]), ("new", ["ant", "bee", "dog"])):
        who = np.array(names)[np.arange(60) % 3]
        np.savez(tmp_path / f"{file}.npz", x=draws.random((60, 4), dtype=np.float32), y=who)
    keys: dict[str, Any] = KEYS | {"data_root": str(tmp_path), "partition": "iid"}
    first = play(tmp_path / "first", dataset="npz:old.npz", **keys)
    with pytest.raises(SettingError, match="2 is 'cow' there, 'dog' here; start-new-heads = true"):
        play(tmp_path / "second", dataset="npz:new.npz", start=str(first.path), **keys)
    out = play(tmp_path / "third", dataset="npz:new.npz", start=str(first.path), start_new_heads=True, **keys)
    assert any("2 drawn" in line for line in out.lines)
    assert play(tmp_path / "fourth", dataset="npz:old.npz", start=str(first.path), **keys).rows
