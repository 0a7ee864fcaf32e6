"""Checkpoints that survive being killed, a full disk and a flipped byte.

::

    checkpoints/round-000012-<first 12 hex digits of its SHA-256>.safetensors
                round-000012.json     manifest: run, size and SHA-256 of the tensor file, values, a hash over itself

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
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from server_app.folder.files import sync_folder
from server_app.folder.tensor_file import serialised, write_hashed

JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]

_MANIFEST = re.compile(r"round-(\d{6,})\.json")
_OURS = re.compile(r"round-\d{6,}(\.json|-[0-9a-f]{12}\.safetensors)|\.tmp-.*")


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
    *,
    pins: Collection[int] = (),
    run: str = "",
) -> Path:
    """Write the state at the end of a round; when this returns, it is on the disk.

    Removes what killed writes left, all but the ``keep`` newest rounds and those that are pinned, and any round after
    this one: those belong to a course that a resumed run has left.

    Args:
        folder: the run's ``checkpoints`` folder, made if need be.
        round_number: the round that has just ended, 0 or more.
        tensors: the state by name, any shape (0-d and empty too); moved to the CPU if they are elsewhere.
        values: everything else. Tuples come back as lists; NaN and infinities come back as such.
        keep: how many of the newest rounds stay, at least 1; fewer than 2 leave nothing to fall back to.
        pins: more rounds to keep, such as the best.
        run: whose checkpoint it is.

    Returns:
        The manifest's path.

    Raises:
        CheckpointError: the disk is full, or another error of the operating system.
        TypeError: a value that JSON cannot hold, or a tensor of a type that safetensors cannot.
    """
    body: dict[str, Any] = {"version": 1, "run": run, "round": round_number, "values": _to_json(values)}
    manifest = folder / f"round-{round_number:06d}.json"
    temporary = folder / f".tmp-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        body["bytes"], body["sha256"] = write_hashed(temporary, serialised(tensors))
        body["tensors"] = f"round-{round_number:06d}-{body['sha256'][:12]}.safetensors"
        os.replace(temporary, folder / body["tensors"])
        write_hashed(temporary, [json.dumps({**body, "self": _digest(body)}, allow_nan=False).encode()])
        os.replace(temporary, manifest)
        sync_folder(folder)  # before anything older goes
        _clean(folder, round_number, keep, pins)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{manifest}: not written ({error})") from error
    return manifest


def newest(
    folder: Path, warn: Callable[[str], None] = lambda line: None, *, run: str | None = None
) -> Checkpoint | None:
    """Load the newest checkpoint that is whole; None if there is none.

    Args:
        folder: the run's ``checkpoints`` folder; it need not exist.
        warn: called with one line for every newer checkpoint that had to be passed over.
        run: whose checkpoints count; None is anybody's.
    """
    for _, manifest in _manifests(folder):
        try:
            return _load(manifest, run)
        except (OSError, ValueError) as error:
            warn(f"checkpoint {manifest} is passed over: {error}")
    return None


def strangers(folder: Path, run: str) -> list[tuple[str, str]]:
    """Names of the manifests that say they are another run's, and whose; damaged ones say nothing."""
    found = []
    for _, manifest in _manifests(folder):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if (owner := json.loads(manifest.read_bytes())["run"]) != run:
                found.append((manifest.name, str(owner)))
    return found


def drop_after(folder: Path, round_number: int) -> None:
    """Remove the checkpoints of later rounds, which nobody shall take up."""
    for number, manifest in _manifests(folder):
        if number > round_number:
            manifest.unlink(missing_ok=True)  # its tensors go when the next one is saved


def newest_round(folder: Path) -> int:
    """The newest round that has a manifest, by name alone; 0 if there is none."""
    return max((number for number, _ in _manifests(folder)), default=0)


def load(folder: Path, round_number: int) -> Checkpoint:
    """One round's checkpoint, such as the pinned best.

    Raises:
        OSError: it is not there.
        ValueError: it is damaged.
    """
    return _load(folder / f"round-{round_number:06d}.json")


def _load(manifest: Path, run: str | None = None) -> Checkpoint:
    body = json.loads(manifest.read_bytes(), object_hook=_from_json)
    if not isinstance(body, dict) or body.pop("self", None) != _digest(body) or body["version"] != 1:
        raise ValueError("its manifest is damaged, or of another version")
    if run is not None and body.get("run", "") != run:
        raise ValueError(f"it is of run {body.get('run', '') or 'without a name'}, not {run}")
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


def _clean(folder: Path, newest_round: int, keep: int, pins: Collection[int]) -> None:
    """Remove every file of ours that no kept manifest needs. Other files are left alone."""
    rounds = [(number, path) for number, path in _manifests(folder) if number <= newest_round]
    needed: set[str] = set()
    kept = 0
    for number, path in rounds:
        if number not in pins and kept >= keep:
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


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(_to_json(body), sort_keys=True, allow_nan=False).encode()).hexdigest()


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
