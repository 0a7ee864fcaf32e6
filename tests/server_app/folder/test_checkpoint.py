"""Checkpoints: bit for bit, and a valid one whatever happens to the newest."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from server_app.folder import checkpoint, tensor_file
from server_app.folder.checkpoint import Checkpoint, CheckpointError, load, newest, save


def state(seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(300, 50, generator=draw), "steps": torch.tensor(seed)}


def bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    flat = tensor.contiguous().reshape(-1)
    return tensor.dtype, tensor.shape, flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def assert_round(found: Checkpoint | None, number: int) -> None:
    assert found is not None
    assert found.round_number == number == found.values["round"]
    assert {name: bits(t) for name, t in found.tensors.items()} == {n: bits(t) for n, t in state(number).items()}


def save_rounds(folder: Path, *numbers: int, **how: Any) -> None:
    for number in numbers:
        save(folder, number, state(number), {"round": number}, **how)


def rounds(folder: Path) -> list[int]:
    return sorted(number for number, _ in checkpoint._manifests(folder))


def test_tensors_come_back_bit_for_bit(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    odd = torch.tensor([math.nan, -math.nan, math.inf, -0.0, 5e-324], dtype=torch.float64)
    tensors = {
        "scalar": torch.tensor(1.5),
        "counter": torch.tensor(2**62 + 1),
        "empty": torch.empty(0, 3),
        "no rows": torch.empty(2, 0, dtype=torch.int64),
        "from numpy": torch.from_numpy(np.zeros(0)),
        "bf16": torch.randn(7, 3, generator=draw).to(torch.bfloat16),
        "bf16 scalar": torch.tensor(0.1, dtype=torch.bfloat16),
        "half": torch.randn(5, generator=draw).half(),
        "odd": odd,
        "mask": torch.tensor([True, False, True]),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "transposed": torch.randn(4, 6, generator=draw).t(),
        "strided": torch.arange(20)[::3],
        'ünïcode "name"': torch.ones(1, requires_grad=True),
        "complex": torch.randn(3, dtype=torch.complex64, generator=draw),
    }
    tensors["shared"] = tensors["odd"]
    save(tmp_path, 0, tensors, {})
    found = newest(tmp_path)
    assert found is not None
    assert {name: bits(t) for name, t in found.tensors.items()} == {n: bits(t.detach()) for n, t in tensors.items()}


def test_the_tensor_file_is_an_ordinary_safetensors_file(tmp_path: Path) -> None:
    save(tmp_path, 3, state(3), {})
    (file,) = tmp_path.glob("*.safetensors")
    assert torch.equal(load_file(file)["w"], state(3)["w"])


def test_loaded_tensors_are_ours_to_change(tmp_path: Path) -> None:
    save_rounds(tmp_path, 1)
    found = newest(tmp_path)
    assert found is not None
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    found.tensors["w"].mul_(2)
    assert torch.equal(found.tensors["w"], 2 * state(1)["w"])


def test_an_empty_state_is_a_state(tmp_path: Path) -> None:
    save(tmp_path, 0, {}, {})
    assert newest(tmp_path) == Checkpoint(0, {}, {})


def test_values_come_back_equal_and_the_manifest_is_valid_json(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "losses": [0.1, 1e-300, math.inf, -math.inf],
        "best": {"accuracy": math.nan, "round": None},
        "seen": {"node-7": 2**70},
        "text": "ü\n",
        "flag": True,
    }
    manifest = save(tmp_path, 1, {}, values)
    json.loads(manifest.read_text(), parse_constant=pytest.fail)
    found = newest(tmp_path)
    assert found is not None
    assert math.isnan(found.values["best"].pop("accuracy"))
    assert found.values == {**values, "best": {"round": None}}


@pytest.mark.parametrize("value", [{1: 2}, {"x": {1, 2}}, {"x": torch.ones(1)}, {"x": b"raw"}])
def test_values_that_would_come_back_changed_are_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match="checkpoint values"):
        save(tmp_path, 1, {}, value)


def test_a_tensor_type_that_safetensors_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="complex128"):
        save(tmp_path, 1, {"x": torch.ones(1, dtype=torch.complex128)}, {})
    assert list(tmp_path.iterdir()) == []


def test_no_folder_and_no_checkpoint_are_none(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    assert newest(tmp_path / "absent") is None


def test_keeps_the_newest_and_the_pinned(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    save_rounds(tmp_path, 1, 2, 3)
    assert rounds(tmp_path) == [2, 3]
    save_rounds(tmp_path, 4, 5, 6, pins=[3])
    assert rounds(tmp_path) == [3, 5, 6]
    assert_round(load(tmp_path, 3), 3)
    save_rounds(tmp_path, 7, 8)
    assert rounds(tmp_path) == [7, 8]
    assert len(list(tmp_path.iterdir())) == 5
    assert (tmp_path / "notes.txt").exists()


def test_saving_a_round_forgets_those_after_it(tmp_path: Path) -> None:
    save_rounds(tmp_path, 1, 5, 6)
    save_rounds(tmp_path, 2, keep=3)
    assert rounds(tmp_path) == [2]
    assert_round(newest(tmp_path), 2)


def test_a_round_can_be_saved_again(tmp_path: Path) -> None:
    save_rounds(tmp_path, 1, 2)
    save(tmp_path, 2, state(9), {"round": 9})
    found = newest(tmp_path)
    assert found is not None
    assert (found.round_number, found.values) == (2, {"round": 9})
    assert len(list(tmp_path.iterdir())) == 4


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 0x10
    file.write_bytes(data)


def damage(kind: str, manifest: Path, tensors: Path) -> None:
    match kind:
        case "a flipped byte in the tensors":
            flip(tensors, -7)
        case "a flipped byte in the header":
            flip(tensors, 20)
        case "a flipped byte in the values":
            place = manifest.read_bytes().index(b'"values"') + len('"values": {"round": ')
            flip(manifest, place)
        case "a truncated tensor file":
            os.truncate(tensors, 1000)
        case "a longer tensor file":
            tensors.write_bytes(tensors.read_bytes() + b"\0")
        case "a truncated manifest":
            os.truncate(manifest, 40)
        case "an empty manifest":
            manifest.write_bytes(b"")
        case "no object":
            manifest.write_text("[1]")
        case "not text":
            manifest.write_bytes(b"\xff\xfe")
        case "no tensor file":
            tensors.unlink()
        case "no manifest":
            manifest.unlink()


DAMAGES = [
    "a flipped byte in the tensors",
    "a flipped byte in the header",
    "a flipped byte in the values",
    "a truncated tensor file",
    "a longer tensor file",
    "a truncated manifest",
    "an empty manifest",
    "no object",
    "not text",
    "no tensor file",
    "no manifest",
]


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_falls_back_to_the_one_before(tmp_path: Path, kind: str) -> None:
    save_rounds(tmp_path, 11, 12)
    manifest = tmp_path / "round-000012.json"
    (tensors,) = tmp_path.glob("round-000012-*")
    damage(kind, manifest, tensors)
    warnings: list[str] = []
    assert_round(newest(tmp_path, warnings.append), 11)
    assert [line.count("round-000012.json is passed over") for line in warnings] == [1] * (kind != "no manifest")
    save_rounds(tmp_path, 12)  # the resumed run comes by again
    assert_round(newest(tmp_path, warnings.append), 12)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_visibly_broken_one_is_not_counted_among_the_kept(tmp_path: Path) -> None:
    save_rounds(tmp_path, 1, 2)
    next(tmp_path.glob("round-000002-*")).unlink()
    save_rounds(tmp_path, 3)
    assert rounds(tmp_path) == [1, 3]


class Killing:
    """A file that takes a part of what it is given and then kills its process."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __enter__(self) -> Killing:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def write(self, data: memoryview) -> None:
        self.stream.write(data[: len(data) // 2])
        die()


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_replace(number: int, before: bool) -> None:
    """Arrange for death at the n-th rename."""
    replace, calls = os.replace, iter(range(1, 9))

    def dying(source: Path, target: Path) -> None:
        this = next(calls)
        if this == number and before:
            die()
        replace(source, target)
        if this == number:
            die()

    checkpoint.os.replace = dying  # type: ignore[attr-defined]


def in_tensor_write() -> None:
    real = open
    tensor_file.open = lambda *a, **k: Killing(real(*a, **k))  # type: ignore[attr-defined]


def patched(name: str) -> Callable[[], None]:
    return lambda: setattr(checkpoint, name, die)


# Where the process dies, and the newest valid round after it.
DEATHS: Mapping[str, tuple[Callable[[], None], int]] = {
    "before the write": (patched("write_hashed"), 2),
    "during the tensor write": (in_tensor_write, 2),
    "tensors written, not renamed": (lambda: at_replace(1, before=True), 2),
    "tensors renamed, no manifest": (lambda: at_replace(1, before=False), 2),
    "manifest written, not renamed": (lambda: at_replace(2, before=True), 2),
    "manifest renamed": (lambda: at_replace(2, before=False), 3),
    "before the folder is synced": (patched("sync_folder"), 3),
    "before the clean-up": (patched("_clean"), 3),
}


@pytest.mark.parametrize("place", DEATHS)
@pytest.mark.parametrize("again", [False, True], ids=["a new round", "a round saved before"])
def test_sigkill_anywhere_leaves_a_valid_state(tmp_path: Path, place: str, again: bool) -> None:
    arrange, expected = DEATHS[place]
    save_rounds(tmp_path, 1, 2)
    written = state(30)
    child = os.fork()  # a fork, as importing torch eight times over takes half a minute
    if child == 0:
        try:
            arrange()
            save(tmp_path, 2 if again else 3, written, {"round": 30})
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    warnings: list[str] = []
    found = newest(tmp_path, warnings.append)
    assert warnings == []
    if expected == 2:
        assert_round(found, 2)
    else:
        assert found is not None
        assert found.round_number == (2 if again else 3)
        assert bits(found.tensors["w"]) == bits(written["w"])
    save_rounds(tmp_path, 4)
    assert_round(newest(tmp_path), 4)
    assert len(list(tmp_path.iterdir())) == 4  # what the killed write left is gone


def test_a_full_disk_is_an_error_the_run_can_survive(tmp_path: Path) -> None:
    save_rounds(tmp_path, 1, 2)
    before = sorted(tmp_path.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # bytes: writes beyond fail as on a full disk
    try:
        with pytest.raises(CheckpointError, match=r"round-000003\.json: not written .*File too large"):
            save_rounds(tmp_path, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(tmp_path.iterdir()) == before
    assert_round(newest(tmp_path), 2)


def test_a_folder_that_cannot_be_made_is_a_checkpoint_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="not written"):
        save_rounds(tmp_path / "file" / "checkpoints", 1)
