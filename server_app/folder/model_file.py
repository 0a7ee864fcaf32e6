"""`model.safetensors` of a run folder: the global state at the newest checkpoint, and at the end of the run.

It is written in two steps around the checkpoint, whose manifest names its hash: staged before, given its name after. So
whatever is killed in between, the newest manifest says which of the two files is the model of its round.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from server_app.folder.files import sync_folder
from server_app.folder.tensor_file import serialised, write_hashed

MODEL = "model.safetensors"


class ModelFile:
    """The model of a run folder.

    Attributes:
        path: of the file.
        round: the round whose state it holds, as far as this process knows; None for no file.
        sha256: of the file.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / MODEL
        self._staged = folder / f".{MODEL}"
        self._staged_sha256 = ""
        self.round: int | None = None
        self.sha256 = ""

    @property
    def facts(self) -> dict[str, Any] | None:
        """What `summary.json` says of it: "round" and "sha256"; None for no model."""
        return None if self.round is None else {"round": self.round, "sha256": self.sha256}

    def stage(self, state: Mapping[str, Tensor], *, sync: bool = False) -> str:
        """Write a state beside the model and return the file's SHA-256.

        Args:
            state: tensors by name.
            sync: be on the disk when this returns. Where a checkpoint of the same state follows it need not be: what a
                power cut loses is made again from that.

        Raises:
            OSError: no room.
        """
        _, self._staged_sha256 = write_hashed(self._staged, serialised(state), sync=sync)
        return self._staged_sha256

    def commit(self, round_number: int) -> None:
        """Let what was staged be the model, of this round."""
        self._staged.replace(self.path)
        sync_folder(self.path.parent)
        self.round, self.sha256 = round_number, self._staged_sha256

    def discard(self) -> None:
        """Forget what was staged."""
        self._staged.unlink(missing_ok=True)

    def remove(self) -> None:
        """No model: the run begins anew."""
        self.discard()
        self.path.unlink(missing_ok=True)
        self.round, self.sha256 = None, ""

    def write(self, round_number: int, state: Mapping[str, Tensor]) -> None:
        """Write a state as the model, on the disk when this returns.

        Raises:
            OSError: no room; the file is as it was.
        """
        try:
            self.stage(state, sync=True)
        except OSError:
            self.discard()
            raise
        self.commit(round_number)

    def find(self, round_number: int, sha256: str) -> str:
        """Look for the model of a round, and give the staged one its name if that is the one.

        Returns:
            "there", "staged" (until now), or "" if neither file is it.
        """
        if _sha256_of(self.path) == sha256:
            self.discard()
            self.round, self.sha256 = round_number, sha256
            return "there"
        if _sha256_of(self._staged) == sha256:
            self._staged_sha256 = sha256
            self.commit(round_number)
            return "staged"
        return ""


def _sha256_of(file: Path) -> str:
    """Hash of a file; nothing where there is none."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        return ""
