"""Agreement in a run folder: what a stop between two writes left undone is finished from the newest checkpoint.

A round is written in this order: the model is staged, the checkpoint is saved, the model gets its name, the round's
line is added to the metrics. The checkpoint holds that line and the model's hash, so it decides what they should be.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from models.errors import SettingError
from server_app.folder import checkpoint
from server_app.folder.checkpoint import Checkpoint
from server_app.folder.run_folder import CONFIG, SUMMARY, RunFolder

_ENDED = "the run ended without a word: it was killed, or the machine stopped"


def settle(folder: RunFolder, found: Checkpoint | None) -> list[str]:
    """Make metrics and model agree with the newest checkpoint.

    Args:
        folder: a run folder that this process holds.
        found: its newest checkpoint.

    Returns:
        What was mended, a line each. What cannot be made from the folder alone, the model of a checkpoint whose file is
        lost, is left out; `folder.model.round` is then the round of the model that is there, or None.
    """
    said: list[str] = []
    if found is None:
        return said
    known = {row["round"] for row in folder.metrics()}
    for row in found.values["rows"]:
        if row["round"] not in known and (not known or row["round"] > max(known)):
            folder.append_metrics(row)
            known.add(row["round"])
            said.append(f"the line of round {row['round']} was missing from metrics.jsonl: taken from the checkpoint")
    how = _find(folder, found)
    if how == "staged":
        said.append(f"the model was of an earlier round: it is now that of round {found.round_number}")
    if not how:
        _an_earlier_model(folder, found.round_number)
    return said


def stopped_by(signum: int) -> str:
    """What a summary says of a run that a signal ended."""
    return f"stopped by {signal.Signals(signum).name}"


def settle_ended(path: Path, why: str = "") -> list[str]:
    """Settle the folder of a run that no process works on any more and that left no summary.

    Args:
        path: the run folder. If a live process has it, or it is no run folder, nothing is done.
        why: it ended, where that is known.

    Returns:
        As `settle`, and that a summary was written.
    """
    if not (path / CONFIG).is_file() or (path / SUMMARY).exists():
        return []
    folder = RunFolder(path.resolve())
    try:
        folder.take()
    except (SettingError, OSError):
        return []
    with folder:
        found = checkpoint.newest(folder.checkpoints, run=folder.id)
        said = settle(folder, found)
        costs: Mapping[str, Any] = found.values["costs"] if found else {}
        if found and found.values["accepted"] and folder.model.round == _planned(path):
            folder.write_summary("finished", costs)
            return [*said, "no summary.json: the run was killed after its last round"]
        folder.write_summary("stopped", costs, why or _ENDED)
    return [*said, f"no summary.json: {why or _ENDED}"]


def _planned(path: Path) -> int:
    return int(json.loads((path / CONFIG).read_text(encoding="utf-8"))["config"]["num-server-rounds"])


def _an_earlier_model(folder: RunFolder, before: int) -> None:
    for number in range(before - 1, 0, -1):
        with suppress(OSError, ValueError, KeyError):
            if _find(folder, checkpoint.load(folder.checkpoints, number)):
                return


def _find(folder: RunFolder, found: Checkpoint) -> str:
    return folder.model.find(found.round_number, found.values["model"], found.values["tiers"])
