"""Run as a script: kills runs with SIGKILL in several places, resumes them, and prints what came of it as JSON.

One process imports everything once and forks a child for every run, before any computation of its own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from flwr.app import Message

from client_app.app import app
from models.algebra.average import PartialAverage
from server_app.folder.events import Events
from tests.support import Outcome, configured, play, trains

KEYS: dict[str, Any] = {
    "method": "fedecover",
    "tier_assignment": "dynamic",
    "fraction_train": 0.7,
    "num_server_rounds": 5,
    "evaluate_every": 2,
}
ROUND = 3
MANIFEST = f"round-{ROUND:06d}.json"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before_fold(folder: Path) -> None:
    """When the round's first client is asked to train."""

    def client(message: Message, context: Any) -> Message:
        if trains(message, rounds=[ROUND]):
            die()
        return app(message, context)

    play(folder, client=client, **KEYS)


def during_fold(folder: Path) -> None:
    """After two replies have been added."""
    add, reset = PartialAverage.add, PartialAverage.reset
    rounds = added = 0

    def counted_reset(self: PartialAverage) -> None:
        nonlocal rounds, added
        rounds, added = rounds + 1, 0
        reset(self)

    def counted_add(self: PartialAverage, *arguments: Any, **options: Any) -> float:
        nonlocal added
        result = add(self, *arguments, **options)
        added += 1
        if rounds == ROUND and added == 2:
            die()
        return result

    with patch.object(PartialAverage, "add", counted_add), patch.object(PartialAverage, "reset", counted_reset):
        play(folder, **KEYS)


def during_write(folder: Path) -> None:
    """When the round's tensors are written under their temporary name, and half of them are gone again."""
    fsync = os.fsync

    def torn(fd: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{fd}"))
        saved = len(list((folder / "checkpoints").glob("round-*.json")))
        if (
            name.name.startswith(".tmp-")
            and saved
            and (folder / "checkpoints" / f"round-{ROUND - 1:06d}.json").exists()
        ):
            os.ftruncate(fd, os.fstat(fd).st_size // 2)
            die()
        fsync(fd)

    with patch("os.fsync", torn):
        play(folder, **KEYS)


def around_rename(*, after: bool) -> Callable[[Path], None]:
    """Just before or after the manifest gets its name, which is when the checkpoint comes to be."""

    def run(folder: Path) -> None:
        replace = os.replace

        def killing(source: Any, target: Any) -> None:
            if Path(target).name == MANIFEST and not after:
                die()
            replace(source, target)
            if Path(target).name == MANIFEST:
                die()

        with patch("os.replace", killing):
            play(folder, **KEYS)

    return run


PLACES: dict[str, Callable[[Path], None]] = {
    "before fold": before_fold,
    "during fold": during_fold,
    "during checkpoint write": during_write,
    "before rename": around_rename(after=False),
    "after rename": around_rename(after=True),
}


def whole(folder: Path) -> None:
    play(folder, **KEYS)


def resume(folder: Path) -> None:
    play(folder, resume=str(folder), **KEYS)


def corrupt(folder: Path) -> None:
    """Flip a byte in the newest tensor file."""
    newest = max((folder / "checkpoints").glob("*.safetensors"))
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(bytes(data))


def child(work: Callable[[Path], None], folder: Path) -> int:
    """Run in a forked process; the signal or the exit code that ended it, as os.waitstatus_to_exitcode gives it."""
    pid = os.fork()
    if pid == 0:
        try:
            work(folder)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def result(folder: Path) -> dict[str, Any]:
    out = Outcome(folder, {}, [])
    accuracies = [row.get("accuracy") for row in out.rows]
    return {"hash": out.hash, "rounds": [row["round"] for row in out.rows], "accuracies": accuracies}


def main(root: Path) -> None:
    torch.set_num_threads(1)
    configured(**KEYS)  # reads the data; what is slow to import is then there for every child
    Events(root / "warm").write({"round": 1, "loss": 1.0})
    found: dict[str, Any] = {"codes": {}}
    codes = found["codes"]
    codes["whole"] = child(whole, root / "whole")
    found["whole"] = result(root / "whole")
    for place, killed in PLACES.items():
        folder = root / place.replace(" ", "-")
        codes[place] = child(killed, folder)
        seen = Outcome(folder, {}, []).rows
        codes[f"{place}, resumed"] = child(resume, folder)
        found[place] = {**result(folder), "before": [row["round"] for row in seen]}
    folder = root / "corrupt"
    codes["corrupt"] = child(before_fold, folder)
    corrupt(folder)
    codes["corrupt, resumed"] = child(resume, folder)
    found["corrupt"] = result(folder)
    print("RESULT", json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
