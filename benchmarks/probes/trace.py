"""One plain training request and reply, call by call: how much of the house a message walks through.

One node, a small mlp, HeteroFL, one optimiser step, everything in this process and every cache warm (the third round is
traced). A call is a call of a function of ours (generator expressions and comprehensions belong to the function they
stand in); a switch is a call in another file than the call before it. Four legs: the round's own part, which is done
once for however many nodes (who is there, what the pieces begin, the selection), then the request from its plan to the
client, what the client does, and the reply until `PartialAverage.add`. "in all" are all four; "a message" are the last
three, the request and the reply. The optimiser step is on the client's leg, and stands by itself as well.

`--walk` prints the files in the order in which they are entered, `--json FILE` writes the figures.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

from benchmarks.probes.structure import PACKAGES, ROOT
from benchmarks.task import Command, Options
from flotilla.local.grid import LocalGrid, contexts
from server_app.config.resolve import defaults, resolve

KEYS: Mapping[str, bool | int | float | str] = {
    "method": "heterofl",
    "model": "mlp",
    "widths": "16, 8",
    "num-clients": 1,
    "local-epochs": 1,
    "learning-rate-schedule": "constant",
    "batch-size": 1_000_000,  # one step: the training loop is no part of a message
    "device": "cpu",
}
LEGS = ("the round", "to the client", "on the client", "to the average")
STEP = "the step alone"  # of the client's leg
_CHOSEN, _TRAINED, _ADDED = "SelectionRunner.choose", "train_fused", "PartialAverage.add"
_HOUSE = tuple(str(ROOT / package) + "/" for package in PACKAGES if package != "benchmarks")
_PARTS = frozenset({"<genexpr>", "<listcomp>", "<setcomp>", "<dictcomp>"})


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a function of ours: its file, from the root, and its name with that of its class."""

    file: str
    function: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What calls come to."""

    calls: int
    functions: int
    files: int
    switches: int

    @staticmethod
    def of(calls: list[Call]) -> Figures:
        """Count."""
        return Figures(
            calls=len(calls),
            functions=len(set(calls)),
            files=len({call.file for call in calls}),
            switches=len(walk(calls)) - 1,
        )


def walk(calls: list[Call]) -> list[str]:
    """The files in the order in which they are entered."""
    files = [call.file for call in calls]
    return files[:1] + [after for before, after in pairwise(files) if after != before]


class _Recorder:
    """Notes calls by leg, from the first one until the average has the reply."""

    def __init__(self) -> None:
        self.legs: dict[str, list[Call]] = {leg: [] for leg in (*LEGS, STEP)}
        self._leg: str | None = LEGS[0]
        self._within: dict[FrameType, str] = {}  # what ends a leg, or the step, when it returns
        self._ours: dict[CodeType, bool] = {}

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        """For `sys.setprofile`."""
        del argument
        if event == "return" and frame in self._within:
            ended = self._within.pop(frame)
            self._leg = self._leg if ended == STEP else LEGS[LEGS.index(ended) + 1]
        if event == "call" and self._leg is not None and self._is_ours(frame.f_code):
            self._note(frame, self._leg)

    def _is_ours(self, code: CodeType) -> bool:
        if code not in self._ours:
            self._ours[code] = code.co_filename.startswith(_HOUSE) and code.co_name not in _PARTS
        return self._ours[code]

    def _note(self, frame: FrameType, leg: str) -> None:
        code = frame.f_code
        call = Call(str(Path(code.co_filename).relative_to(ROOT)), code.co_qualname)
        if leg == LEGS[1] and call.file.startswith("client_app/"):
            self._leg = leg = LEGS[2]
            self._within[frame] = leg
        elif call.function == _CHOSEN:
            self._within[frame] = leg
        elif call.function == _TRAINED:
            self._within[frame] = STEP
        self.legs[leg].append(call)
        if STEP in self._within.values():
            self.legs[STEP].append(call)
        if call.function == _ADDED:
            self._leg = None


def traced() -> dict[str, list[Call]]:
    """The calls of a training request and its reply, by leg."""
    from client_app.app import app

    config = resolve({**defaults(), **KEYS})
    strategy, grid = config.strategy(), LocalGrid(app, contexts(config.flat, 1))
    recorder = _Recorder()
    threads = torch.get_num_threads()
    for number in (1, 2):
        strategy.run_round(grid, number)
    sys.setprofile(recorder)
    try:
        strategy.run_round(grid, 3)
    finally:
        sys.setprofile(None)
        torch.set_num_threads(threads)
    if strategy.report.accepted != 1:
        raise RuntimeError(f"the reply was not accepted: {strategy.report.rejected}")
    return recorder.legs


def figures(legs: Mapping[str, list[Call]]) -> dict[str, Figures]:
    """Of everything, of the request and its reply, of each leg, and of the optimiser step."""
    calls = {"in all": LEGS, "a message": LEGS[1:]} | {leg: (leg,) for leg in (*LEGS, STEP)}
    return {name: Figures.of([call for leg in some for call in legs[leg]]) for name, some in calls.items()}


def _run(given: Options) -> int:
    legs = traced()
    names = Figures.__dataclass_fields__
    found = {leg: {name: getattr(figure, name) for name in names} for leg, figure in figures(legs).items()}
    print(f"{'':<16}" + "".join(f"{name:>11}" for name in names))
    for leg, values in found.items():
        print(f"{leg:<16}" + "".join(f"{value:>11}" for value in values.values()))
    if given.walk:
        for leg, calls in ((leg, legs[leg]) for leg in LEGS):
            print(f"\n{leg}\n  " + "\n  ".join(walk(calls)))
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


_DEFAULTS: Mapping[str, Any] = {"walk": False, "json": None}
TASK = Command(_run, defaults=_DEFAULTS)

if __name__ == "__main__":
    sys.exit(TASK(sys.argv[1:], "python -m benchmarks.probes.trace", __doc__))
