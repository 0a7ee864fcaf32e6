"""What a device keeps from round to round: named vectors, in Flower's `context.state` or in a folder.

FedDyn's gradient, a codec's residual and the like. Every vector has the round that wrote it, and a round reads what an
earlier round wrote: a run that is resumed from a checkpoint finds what the uninterrupted run would have found, even if
the device had gone on before the server was stopped. Versions that no resumed run can ask for are forgotten.

A reply that was rejected, came late or belongs to an abandoned round is as if it had never been, here too: a request
says which of the device's replies was the last one that counted, and what was written since then is not read.

A device that lost its memory reads None, and whoever asked starts anew.
"""

from __future__ import annotations

import os
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from flwr.app import Array, ArrayRecord, Context
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from protocol import NodeId, decode, encode

KEY = "client-state"  # in the run configuration, and on a device in the node configuration
_VECTOR = "vector"


class _Store(Protocol):
    """Versions of vectors by name and round."""

    def rounds(self, name: str) -> list[int]: ...
    def load(self, name: str, round_number: int) -> Tensor | None: ...
    def save(self, name: str, round_number: int, vector: Tensor) -> None: ...
    def drop(self, name: str, round_number: int) -> None: ...


@dataclass(frozen=True, eq=False)
class ClientState:
    """The vectors of one device, as one round sees them.

    Attributes:
        context: of the device.
        node: its stable id.
        round_number: the round that reads and writes; versions of this round and later ones are not seen.
        checkpoint: newest round that the server can resume from; older versions than it needs are dropped.
        counted: round of the device's last reply that counted; None if that is not known.
    """

    context: Context
    node: NodeId
    round_number: int
    _: KW_ONLY
    checkpoint: int
    counted: int | None = None

    @cached_property
    def _store(self) -> _Store:
        folder = str(self.context.node_config.get(KEY, "") or self.context.run_config.get(KEY, ""))
        return _Files(Path(folder) / str(self.node)) if folder else _State(self.context)

    @cached_property
    def _last(self) -> int:
        before = self.round_number - 1
        return before if self.counted is None else min(self.counted, before)

    def read(self, name: str) -> Tensor | None:
        """Return the newest version that an earlier round wrote and that counted (float32), or None."""
        for version in sorted(self._store.rounds(name), reverse=True):
            if version <= self._last and (found := self._store.load(name, version)) is not None:
                return found
        return None

    def write(self, name: str, vector: Tensor) -> None:
        """Keep a flat float32 vector as this round's version."""
        self._store.save(name, self.round_number, vector.detach().float().cpu().contiguous())
        versions = sorted(self._store.rounds(name))
        needed = max((version for version in versions if version <= min(self.checkpoint, self._last)), default=-1)
        for version in versions:
            # Between the last that counted and this one are those that never did; later ones were written by a run that
            # was stopped and has been resumed from before them.
            if version < needed or self._last < version != self.round_number:
                self._store.drop(name, version)


class _State:
    """In Flower's own per-node state, which lives as long as the SuperNode or the simulation does."""

    def __init__(self, context: Context) -> None:
        self._state = context.state

    def rounds(self, name: str) -> list[int]:
        found = (key.rpartition("@") for key in self._state)
        return [int(version) for stem, _, version in found if stem == name]

    def load(self, name: str, round_number: int) -> Tensor | None:
        record = self._state[f"{name}@{round_number}"]
        assert isinstance(record, ArrayRecord)  # we wrote it
        array: Array = record[_VECTOR]
        return decode(array, array.shape[0]).clone()

    def save(self, name: str, round_number: int, vector: Tensor) -> None:
        self._state[f"{name}@{round_number}"] = ArrayRecord({_VECTOR: encode(vector)})

    def drop(self, name: str, round_number: int) -> None:
        del self._state[f"{name}@{round_number}"]


class _Files:
    """In a folder of the device, one file per version, written atomically."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _file(self, name: str, round_number: int) -> Path:
        return self._folder / f"{name}@{round_number}.safetensors"

    def rounds(self, name: str) -> list[int]:
        found = (file.stem.rpartition("@") for file in self._folder.glob("*.safetensors"))
        return [int(version) for stem, _, version in found if stem == name and version.isdigit()]

    def load(self, name: str, round_number: int) -> Tensor | None:
        try:
            return load_file(self._file(name, round_number))[_VECTOR]
        except (OSError, SafetensorError, KeyError):  # damaged: as good as lost
            return None

    def save(self, name: str, round_number: int, vector: Tensor) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        target = self._file(name, round_number)
        beside = target.with_suffix(f".{os.getpid()}.part")
        save_file({_VECTOR: vector}, beside)
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        beside.replace(target)

    def drop(self, name: str, round_number: int) -> None:
        self._file(name, round_number).unlink(missing_ok=True)
