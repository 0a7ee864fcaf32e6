"""Checkpoints that survive being killed, a full disk and a flipped byte.

::

    checkpoints/round-000012-<first 12 hex digits of its SHA-256>.safetensors
                round-000012.json     manifest: size and SHA-256 of the tensor file, the values, a hash over itself

Everything is written under a temporary name, synced and renamed; the manifest last, so its rename is the one instant
at which the checkpoint comes to be. Until then the one before it is the newest. Tensor files are named by content,
so writing a round again never touches the bytes an existing manifest speaks of.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from server_app.folder.files import sync_folder

JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]

_MANIFEST = re.compile(r"round-(\d{6,})\.json")
_OURS = re.compile(r"round-\d{6,}(\.json|-[0-9a-f]{12}\.safetensors)|\.tmp-.*")
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class CheckpointError(RuntimeError):
    """A checkpoint could not be written. Those before it are as they were, and a run can go on without it."""


@dataclass(frozen=True)
class Checkpoint:
    """The state at the end of a round: tensors bit for bit, values as JSON gives them back."""

    round_number: int
    tensors: dict[str, Tensor]
    values: dict[str, Any]


def save(
    folder: Path,
    round_number: int,
    tensors: Mapping[str, Tensor],
    values: Mapping[str, JSON],
    keep: int = 2,
    pin: int | None = None,
) -> Path:
    """Write the state at the end of a round; when this returns, it is on the disk.

    Removes what killed writes left, all but the ``keep`` newest rounds, and any round after this one: those belong
    to a course that a resumed run has left.

    Args:
        folder: the run's ``checkpoints`` folder, made if need be.
        round_number: the round that has just ended, 0 or more.
        tensors: the state by name, any shape (0-d and empty too); moved to the CPU if they are elsewhere.
        values: everything else. Tuples come back as lists; NaN and infinities come back as such.
        keep: how many of the newest rounds stay, at least 1; fewer than 2 leave nothing to fall back to.
        pin: one more round to keep, such as the best.

    Returns:
        The manifest's path.

    Raises:
        CheckpointError: the disk is full, or another error of the operating system.
        TypeError: a value that JSON cannot hold, or a tensor of a type that safetensors cannot.
    """
    body: dict[str, Any] = {"version": 1, "round": round_number, "values": _to_json(values)}
    manifest = folder / f"round-{round_number:06d}.json"
    temporary = folder / f".tmp-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        body["bytes"], body["sha256"] = _write_synced(temporary, _safetensors(tensors))
        body["tensors"] = f"round-{round_number:06d}-{body['sha256'][:12]}.safetensors"
        os.replace(temporary, folder / body["tensors"])
        _write_synced(temporary, [json.dumps({**body, "self": _digest(body)}, allow_nan=False).encode()])
        os.replace(temporary, manifest)
        sync_folder(folder)  # before anything older goes
        _clean(folder, round_number, keep, pin)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{manifest}: not written ({error})") from error
    return manifest


def newest(folder: Path, warn: Callable[[str], None] = lambda line: None) -> Checkpoint | None:
    """Load the newest checkpoint that is whole; None if there is none.

    Args:
        folder: the run's ``checkpoints`` folder; it need not exist.
        warn: called with one line for every newer checkpoint that had to be passed over.
    """
    for _, manifest in _manifests(folder):
        try:
            return _load(manifest)
        except (OSError, ValueError) as error:
            warn(f"checkpoint {manifest} is passed over: {error}")
    return None


def load(folder: Path, round_number: int) -> Checkpoint:
    """One round's checkpoint, such as the pinned best.

    Raises:
        OSError: it is not there.
        ValueError: it is damaged.
    """
    return _load(folder / f"round-{round_number:06d}.json")


def _load(manifest: Path) -> Checkpoint:
    body = json.loads(manifest.read_bytes(), object_hook=_from_json)
    if not isinstance(body, dict) or body.pop("self", None) != _digest(body) or body["version"] != 1:
        raise ValueError("its manifest is damaged, or of another version")
    file = manifest.with_name(body["tensors"])
    with open(file, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size != body["bytes"]:
            raise ValueError(f"{file.name} has {size} bytes, not {body['bytes']}")
        if hashlib.file_digest(stream, "sha256").hexdigest() != body["sha256"]:
            raise ValueError(f"{file.name} has another SHA-256 than its manifest says")
    # Through read rather than a memory map: what has been checked must not change, or vanish, under the run.
    return Checkpoint(body["round"], load_file(file, backend="pread"), body["values"])


def _manifests(folder: Path) -> list[tuple[int, Path]]:
    """List rounds and manifests by name alone, newest first."""
    if not folder.is_dir():
        return []
    found = ((_MANIFEST.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


def _clean(folder: Path, newest_round: int, keep: int, pin: int | None) -> None:
    """Remove every file of ours that no kept manifest needs. Other files are left alone."""
    rounds = [(number, path) for number, path in _manifests(folder) if number <= newest_round]
    needed: set[str] = set()
    kept = 0
    for number, path in rounds:
        if number != pin and kept >= keep:
            continue
        try:
            tensors = json.loads(path.read_bytes())["tensors"]
            whole = (folder / tensors).exists()
        except (OSError, ValueError, KeyError, TypeError):
            whole = False
        if whole:  # a visibly broken one must not take the place of one to fall back to
            needed |= {path.name, tensors}
            kept += 1
    for path in sorted(folder.iterdir(), reverse=True):  # manifests before the tensors they name: ".json" > "-"
        if _OURS.fullmatch(path.name) and path.name not in needed:
            path.unlink(missing_ok=True)


def _safetensors(tensors: Mapping[str, Tensor]) -> Iterable[bytes | memoryview]:
    """Yield a safetensors file piece by piece, without a copy; names that share memory are written twice.

    The format (https://huggingface.co/docs/safetensors): the header's length as 8 bytes, little endian; a JSON header
    of dtype, shape and offsets, padded with spaces to 8 bytes; then the data, widest dtypes first to stay aligned.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {}
    end = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"checkpoint tensor {name} is {tensor.dtype}, which safetensors cannot hold")
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        if flat.numel():  # an empty tensor from NumPy has a stride of 0, which cannot be seen as bytes
            yield flat.view(torch.uint8).numpy().data


def _write_synced(file: Path, pieces: Iterable[bytes | memoryview]) -> tuple[int, str]:
    """Write a new file, sync it, and return its size in bytes and its SHA-256."""
    pieces = list(pieces)
    # Hashing takes as long as writing and both let go of the GIL, so one hides behind the other.
    with ThreadPoolExecutor(1) as pool, open(file, "wb", buffering=0) as stream:
        sha256 = pool.submit(_sha256, pieces)
        for piece in pieces:
            rest = memoryview(piece)
            while rest:  # a disk about to be full takes a part, and fails at the next
                rest = rest[stream.write(rest) :]
        os.fsync(stream.fileno())
        return stream.tell(), sha256.result()


def _sha256(pieces: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _digest(body: dict[str, Any]) -> str:
    return _sha256([json.dumps(_to_json(body), sort_keys=True, allow_nan=False).encode()])


def _to_json(value: Any) -> Any:
    """JSON that comes back equal: it has no NaN or infinities, so these are written as ``{"$float": "nan"}``."""
    if isinstance(value, Mapping):
        if odd := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"checkpoint values have the key {odd[0]!r}, which would come back as text")
        return {key: _to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(float(value))}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"checkpoint values hold a {type(value).__name__}, which JSON cannot: {value!r}")


def _from_json(pairs: dict[str, Any]) -> Any:
    return float(pairs["$float"]) if pairs.keys() == {"$float"} else pairs
