"""A search for tests, and what stands in for its runs."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path

from flotilla.studies.plan import Cell
from flotilla.studies.progress import Progress
from flotilla.studies.search_plan import SearchPlan, read_search
from flotilla.studies.sweep import Folder

FILE = """
[settings]
dataset = "digits"
model = "mlp"
widths = "16, 16"
num-clients = 4
num-server-rounds = 2
tiers = "a:1, b:1/2"
device = "cpu"

[search]
trials = 6
together = 2
learning-rate = { low = 0.01, high = 1.0, log = true }
batch-size = { low = 8, high = 64, step = 8 }
momentum = [0.0, 0.9]

[grid]
seed = [1, 2]
"""


def plan_of(folder: Path, text: str = FILE) -> SearchPlan:
    (folder / "search.toml").write_text(text, encoding="utf-8")
    found = read_search(folder / "search.toml")
    assert found is not None
    return found


class Played:
    """Stands in for the runs: devices score best at a learning rate of 0.1; the test set says the opposite.

    Args:
        stop: after so many runs it is interrupted.
        lower: whether what devices say is a loss.
        failing: names of runs that fail.
        stopped: names of runs that are told to stop.
        retry: whether runs that failed are tried again.
    """

    def __init__(
        self,
        folder: Folder,
        stop: float = math.inf,
        *,
        lower: bool = False,
        failing: Collection[str] = (),
        stopped: Collection[str] = (),
        retry: bool = False,
    ) -> None:
        self.folder, self.stop, self.lower = folder, stop, lower
        self.failing, self.stopped, self.retry = failing, stopped, retry
        self.ran: list[str] = []
        self.listed: list[str] = []

    def __call__(self, cells: Sequence[Cell], some: Sequence[Cell]) -> Progress:
        assert {*some} <= {*cells}
        self.listed = [cell.name for cell in cells]
        for cell in some:
            if self.folder.finished(cell) or (self.folder.failed(cell) is not None and not self.retry):
                continue
            if len(self.ran) >= self.stop:
                raise KeyboardInterrupt
            self.ran.append(cell.name)
            self.folder.failure(cell).unlink(missing_ok=True)
            if cell.name in self.failing:
                self.folder.failure(cell).parent.mkdir(exist_ok=True)
                self.folder.failure(cell).write_text(json.dumps({"why": "no memory left", "code": 1}))
            if {cell.name} & {*self.failing, *self.stopped}:
                continue
            run = self.folder.run(cell)
            run.mkdir(parents=True)
            far = (
                abs(math.log10(float(cell.keys["learning-rate"])) + 1) / 2 + float(str(cell.keys.get("seed", 0))) / 100
            )
            said = {"mean": far, "metric": "loss"} if self.lower else {"mean": 1 - far}
            rows = [{"round": 1, "fairness": {"mean": 0.5}}, {"round": 2, "accuracy": far, "fairness": said}]
            (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            (run / "summary.json").write_text(json.dumps({"status": "finished", "last": {"accuracy": far}}))
        return Progress()
