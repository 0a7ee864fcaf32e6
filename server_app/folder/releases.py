"""What a run under differential privacy has released, on the disk before anybody is sent it.

A run that was stopped repeats the rounds after its checkpoint. Where the same replies come again the same state is
released, which costs nothing; devices elsewhere may answer otherwise, and then it is one more. So every release leaves
a mark here first, and a resumed run counts those that were other than its own.
"""

from __future__ import annotations

import json
import os
from logging import WARNING, getLogger
from pathlib import Path

from server_app.folder.files import sync_folder
from strategies.robustness.privacy import Privacy

FILE = "releases.jsonl"


def keep_releases(folder: Path, privacy: Privacy | None, after_round: int) -> None:
    """Let the releases of a run be kept in its folder, and know those that it made after the round that it takes up."""
    if privacy is None:
        return
    file = folder / FILE
    privacy.made = _made(file, after_round)
    privacy.on_release = lambda round_number, mark: _append(file, {"round": round_number, "mark": mark})


def _append(file: Path, row: dict[str, int | str]) -> None:
    new = not file.exists()
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    if new:
        sync_folder(file.parent)


def _made(file: Path, after_round: int) -> dict[int, set[str]]:
    """Marks by round. A line that is not whole was never followed by its release."""
    made: dict[int, set[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            row = json.loads(line)
            number, mark = int(row["round"]), str(row["mark"])
        except (ValueError, TypeError, KeyError):
            getLogger("flwr").log(WARNING, "%s: left out a line that is no release", file)
            continue
        if number > after_round:
            made.setdefault(number, set()).add(mark)
    return made
