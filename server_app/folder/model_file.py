"""The model of a run folder: two files of one round, written at every checkpoint and at the end of the run.

`model.safetensors` is the global state; `tiers.safetensors` what makes each tier's network of it (see `tiers_file`).
Both are written in two steps around the checkpoint, whose manifest names their hashes: staged before, given their names
after. So whatever is killed in between, the newest manifest says which of the files are those of its round.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from server_app.folder.staged_file import StagedFile
from server_app.folder.tensor_file import serialised
from server_app.folder.tiers_file import TIERS, TierRecords

MODEL = "model.safetensors"


class ModelFile:
    """The model of a run folder.

    Attributes:
        path: of the state.
        round: the round that both files are of, as far as this process knows; None for no model, or for two files that
            an error left of two rounds.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / MODEL
        self._state, self._tiers = StagedFile(self.path), StagedFile(folder / TIERS)
        self.round: int | None = None

    @property
    def facts(self) -> dict[str, Any] | None:
        """What `summary.json` says of it: "round", and "sha256" and "tiers_sha256" of the files; None for no model."""
        if self.round is None:
            return None
        return {"round": self.round, "sha256": self._state.sha256, "tiers_sha256": self._tiers.sha256}

    def stage(self, state: Mapping[str, Tensor], tiers: TierRecords, *, sync: bool = False) -> dict[str, str]:
        """Write a state, and what makes each tier's network of it, beside the model.

        Args:
            state: tensors by name.
            tiers: of the same round.
            sync: be on the disk when this returns. Where a checkpoint of the same state follows they need not be: what
                a power cut loses is made again from that.

        Returns:
            The SHA-256 of both files: "model" and "tiers".

        Raises:
            OSError: no room.
        """
        model = self._state.stage(serialised(state), sync=sync)
        return {"model": model, "tiers": self._tiers.stage(tiers.serialised(model), sync=sync)}

    def commit(self, round_number: int) -> None:
        """Let what was staged be the model, of this round.

        Raises:
            OSError: the files may be of two rounds now, so the model is of none; `find` can finish it.
        """
        self.round = None
        self._state.commit()
        self._tiers.commit()
        self.round = round_number

    def discard(self) -> None:
        """Forget what was staged."""
        self._state.discard()
        self._tiers.discard()

    def remove(self) -> None:
        """No model: the run begins anew."""
        self.round = None
        self._state.remove()
        self._tiers.remove()

    def write(self, round_number: int, state: Mapping[str, Tensor], tiers: TierRecords) -> None:
        """Write a state as the model, on the disk when this returns.

        Raises:
            OSError: no room, and the files are as they were; or as `commit`.
        """
        try:
            self.stage(state, tiers, sync=True)
        except OSError:
            self.discard()
            raise
        self.commit(round_number)

    def find(self, round_number: int, model: str, tiers: str) -> str:
        """Look for the model of a round by the hashes of its files, and give what is staged its name if it is that.

        Returns:
            "there", "staged" (one of the files was, until now), or "" if one of them is lost.

        Raises:
            OSError: as `commit`.
        """
        found = {self._state: self._state.holds(model), self._tiers: self._tiers.holds(tiers)}
        if not all(found.values()):
            return ""
        self.round = None
        self._state.take(found[self._state], model)
        self._tiers.take(found[self._tiers], tiers)
        self.round = round_number
        return "staged" if "staged" in found.values() else "there"
