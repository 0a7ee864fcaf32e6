"""Runs that are stopped, killed and resumed, in this process: what each leaves in its folder is what is looked at.

A kill is the folder as it is at one instant: it is copied there, the run goes no further, and the copy takes its place.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from json import loads
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from flwr.app import Message

from protocol import Scalar
from server_app.folder import checkpoint
from server_app.folder.lock import LOCK
from tests.support import run_of, trains

SMALL: dict[str, Any] = {"num_clients": 2, "evaluate_every": 1, "tiers": "a:1, b:1/2"}


class Stop(KeyboardInterrupt):
    """The user has had enough."""


class Killed(BaseException):
    """No process is left: whatever is written from here on is nobody's."""


class Instants:
    """Counts the instants before and after every change of a run folder, and copies the folder at one of them.

    Args:
        folder: of the run.
        at: which instant, from 0; a run that has fewer is not killed.
        copy: where to.
    """

    def __init__(self, folder: Path, at: int, copy: Path) -> None:
        self.folder, self.at, self.copy, self.seen = folder, at, copy, 0

    def __call__(self) -> None:
        self.seen += 1
        if self.seen > self.at and not self.copy.exists():
            shutil.copytree(self.folder, self.copy)
            (self.copy / LOCK).unlink(missing_ok=True)  # what a process left that is gone counts for nothing
            raise Killed

    @contextmanager
    def watched(self) -> Iterator[None]:
        replace, write, unlink, truncate = os.replace, os.write, os.unlink, os.truncate

        def around(change: Any) -> Any:
            def changing(target: Any, *more: Any, **options: Any) -> Any:
                path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fspath(target)
                ours = str(path).startswith(str(self.folder)) and not str(path).endswith(f"/{LOCK}")
                if ours:
                    self()
                result = change(target, *more, **options)
                if ours:
                    self()
                return result

            return changing

        with (
            patch("os.replace", around(replace)),
            patch("os.write", around(write)),
            patch("os.unlink", around(unlink)),
            patch("os.truncate", around(truncate)),
        ):
            yield


def play(
    folder: Path, rounds: int, *, every: int = 1, resume: bool = False, stop: int = 0, kill: int | None = None
) -> str:
    """Run or resume up to a round.

    Args:
        folder: the run folder.
        rounds: num-server-rounds.
        every: checkpoint-every.
        resume: whether to go on with the folder.
        stop: the round in whose training the user presses Ctrl-C; 0 is none.
        kill: the instant at which the process is killed; None is none.

    Returns:
        "finished", "stopped" or "killed".
    """

    def faults(request: Message, reply: Message) -> list[Message]:
        if stop and trains(request, rounds=[stop]):
            raise Stop
        return [reply]

    keys: dict[str, Any] = {**SMALL, "num_server_rounds": rounds, "checkpoint_every": every}
    if resume:
        keys["resume"] = str(folder)
    instants = Instants(folder, 10**9 if kill is None else kill, folder.with_name(folder.name + "-killed"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with (
            patch("server_app.report.page.figures", return_value=""),
            patch("server_app.folder.tracking.Events"),
            patch.dict("os.environ", FLOTILLA_COMMIT="of no interest"),
        ):
            run = run_of(folder, faults, **keys)
            with instants.watched():
                run.execute()
        return "finished"
    except Stop:
        return "stopped"
    except Killed:
        run.folder.close()
        shutil.rmtree(folder)
        instants.copy.rename(folder)
        return "killed"
    finally:
        torch.set_num_threads(threads)


def disagreements(folder: Path, models: Mapping[int, str]) -> list[str]:
    """What the files of a run folder say that is not so by the others; they are all there.

    Args:
        folder: the run folder.
        models: by round, the hash of the model of the run that nobody disturbed.
    """
    planned: Scalar = loads((folder / "config.json").read_text())["config"]["num-server-rounds"]
    summary = loads((folder / "summary.json").read_text())
    metrics = folder / "metrics.jsonl"  # killed before its first line a run has none
    rounds = [loads(line)["round"] for line in metrics.read_text().splitlines()] if metrics.exists() else []
    (state,) = re.findall(r"<header>.*?<p>(.*?)</p>", (folder / "report.html").read_text())
    last = rounds[-1] if rounds else 0
    found = []
    if rounds != list(range(1, last + 1)):
        found.append(f"metrics.jsonl has rounds {rounds}")
    if summary["rounds"] != last or (summary["last"] or {"round": 0})["round"] != last:
        found.append(f"summary.json says {summary['rounds']} rounds, metrics.jsonl {last}")
    if (summary["status"] == "finished") != (last == planned):
        found.append(f"{summary['status']} after {last} of {planned} rounds")
    model = summary["model"]
    said = f"{summary['status']} · {last} round{'s' * (last != 1)} of {planned}"
    said += f" · model of round {model['round']}" if model else ""
    if state != said:
        found.append(f"report.html says {state}, the others {said}")
    newest = checkpoint.newest(folder / "checkpoints")
    if (newest is None) != (model is None) or newest is None or model is None:
        return [*found, *(["model or checkpoint, but not both"] if newest or model else [])]
    held = sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if not held == model["sha256"] == models[model["round"]] == newest.values["model"]:
        found.append(f"model.safetensors is not that of round {model['round']}")
    tiers = sha256((folder / "tiers.safetensors").read_bytes()).hexdigest()
    if not tiers == model["tiers_sha256"] == newest.values["tiers"]:
        found.append(f"tiers.safetensors is not that of round {model['round']}")
    if newest.round_number != model["round"]:
        found.append(f"the model is of round {model['round']}, the checkpoint of {newest.round_number}")
    return found
