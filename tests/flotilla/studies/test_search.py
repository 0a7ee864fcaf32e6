"""A search for settings: what its file may say, that devices alone score it, that it goes on where it was stopped."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flotilla.cli import app
from flotilla.settings import SettingsError
from flotilla.studies.plan import Cell
from flotilla.studies.search_plan import Range, SearchPlan, read_search
from flotilla.studies.sweep import Folder, Progress

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
    """

    def __init__(self, folder: Folder, stop: float = math.inf, *, lower: bool = False) -> None:
        self.folder, self.stop, self.lower = folder, stop, lower
        self.ran: list[str] = []

    def __call__(self, cells: Sequence[Cell]) -> Progress:
        for cell in cells:
            if self.folder.finished(cell):
                continue
            if len(self.ran) >= self.stop:
                raise KeyboardInterrupt
            self.ran.append(cell.name)
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


def test_what_the_file_says(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert (plan.trials, plan.together, plan.seed, plan.seeds) == (6, 2, 1, [1, 2])
    assert plan.space["learning-rate"] == Range(low=0.01, high=1.0, log=True)
    assert plan.space["batch-size"] == Range(low=8, high=64, step=8)
    assert plan.settings["fraction-evaluate"] == 1.0
    first, second = plan.cells(3, {"learning-rate": 0.5})
    assert (first.row, first.seed, second.seed) == ("trial 3, learning-rate=0.5", 1, 2)
    assert (second.keys["seed"], second.keys["learning-rate"], second.keys["model"]) == (2, 0.5, "mlp")
    corners = list(plan.corners())
    assert len(corners) == 4
    assert {corner["batch-size"] for corner in corners} == {8, 64}
    alone = plan_of(tmp_path, "[search]\nlearning-rate = [0.1, 0.2]\n")
    assert [cell.seed for cell in alone.cells(0, {"learning-rate": 0.1})] == [None]


def test_a_sweep_is_no_search(tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text("[grid]\nseed = [1, 2]\n")
    assert read_search(tmp_path / "sweep.toml") is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[search]\n", "at least one setting"),
        ("[search]\nlearning-rate = 0.1\n", "a list of values"),
        ("[search]\nlearning-rate = []\n", "a list of values"),
        ("[search]\nlearning-rate = [0.1, 0.1]\n", "a list of values"),
        ("[search]\nlearning-rate = { low = 1.0, high = 0.1 }\n", "a list of values"),
        ("[search]\nlearning-rate = { low = 0, high = 1, log = true }\n", "a list of values"),
        ("[search]\nlearning-rate = { low = 0.1, high = 1, log = true, step = 0.1 }\n", "a list of values"),
        ("[search]\nbatch-size = { low = 1, high = 8, step = 0.5 }\n", "a list of values"),
        ("[search]\nbatch-size = { low = 1, high = 8, steps = 1 }\n", "a list of values"),
        ("[search]\nbatch-size = [8]\ntrials = 0\n", "whole number of at least 1"),
        ("[search]\nbatch-size = [8]\ntogether = true\n", "whole number of at least 1"),
        ("[search]\nbatch-size = [8]\n[grid]\nmethod = ['heterofl']\n", "seed alone"),
        ("[search]\nbatch-size = [8]\n[rows.a]\nmomentum = 0.0\n", "allowed beside"),
        ("[settings]\nbatch-size = 4\n[search]\nbatch-size = [8]\n", "one of"),
        ("[search]\nrun-dir = ['a']\n", "one of"),
        ("[settings]\npatience = 3\n[search]\nbatch-size = [8]\n", "no test set"),
        ("[settings]\ntarget = '0.9'\n[search]\nbatch-size = [8]\n", "no test set"),
        ("[settings]\nfraction-evaluate = 0.0\n[search]\nbatch-size = [8]\n", "devices' own"),
        ("[settings]\nlocal-test-fraction = 0.0\n[search]\nbatch-size = [8]\n", "devices' own"),
    ],
)
def test_what_the_file_must_not_say(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        plan_of(tmp_path, text)


def test_ends_of_ranges_are_checked_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "search.toml").write_text(FILE.replace("[0.0, 0.9]", "[0.0, 1.9]"))
    out = CliRunner().invoke(app, ["sweep", str(tmp_path / "search.toml"), "--folder", str(tmp_path / "searched")])
    assert out.exit_code == 2
    assert "momentum = 1.9" in out.stderr
    assert not (tmp_path / "searched").exists()


def test_without_optuna_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flotilla.studies.search import search

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SettingsError, match=r"flotilla\[search\]"):
        search(plan_of(tmp_path), Folder(path=tmp_path / "searched"), lambda cells: Progress())
    assert not (tmp_path / "searched").exists()


def searched(folder: Path, **options: bool) -> list[tuple[dict[str, object], float | None]]:
    """Values and scores of all trials, of a search that nothing stops."""
    from flotilla.studies.search import search

    place = Folder(path=folder / "searched")
    return [(dict(one.values), one.score) for one in search(plan_of(folder), place, Played(place, **options))]


@pytest.fixture
def new(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    pytest.importorskip("optuna", reason="no Optuna: pip install 'flotilla[search]'")
    return lambda: tmp_path_factory.mktemp("search")


def test_devices_score_and_the_test_set_does_not(new: Callable[[], Path]) -> None:
    from flotilla.studies.search import best, search

    folder = new()
    place, plan = Folder(path=folder / "searched"), plan_of(folder)
    trials = search(plan, place, Played(place))
    assert [one.number for one in trials] == list(range(6))
    found = best(trials)
    assert found is not None
    assert found.values["learning-rate"] == min(
        (one.values["learning-rate"] for one in trials), key=lambda rate: abs(math.log10(float(rate)) + 1)
    )
    # The mean over both seeds, of the last round.
    far = abs(math.log10(float(found.values["learning-rate"])) + 1) / 2
    assert found.score == pytest.approx(1 - far - 0.015)
    text = (place.path / "best.toml").read_text()
    assert f"learning-rate = {json.dumps(found.values['learning-rate'])}" in text
    assert 'model = "mlp"' in text
    assert all(8 <= int(one.values["batch-size"]) <= 64 and int(one.values["batch-size"]) % 8 == 0 for one in trials)


def test_a_loss_is_made_small(new: Callable[[], Path]) -> None:
    from flotilla.studies.search import best, search

    folder = new()
    place, plan = Folder(path=folder / "searched"), plan_of(folder)
    trials = search(plan, place, Played(place, lower=True))
    found = best(trials)
    assert found is not None
    assert found.score == min(one.score for one in trials if one.score is not None)


@pytest.mark.parametrize("stop", [0, 1, 3, 4, 7, 11])
def test_stopped_and_gone_on_it_ends_as_one_that_was_not(new: Callable[[], Path], stop: int) -> None:
    from flotilla.studies.search import search

    whole, folder = searched(new()), new()
    place, plan = Folder(path=folder / "searched"), plan_of(folder)
    first = Played(place, stop)
    with pytest.raises(KeyboardInterrupt):
        search(plan, place, first)
    then = Played(place)
    assert [(dict(one.values), one.score) for one in search(plan, place, then)] == whole
    assert len(first.ran) == stop
    assert len({*first.ran, *then.ran}) == len(first.ran) + len(then.ran) == 12
    again = Played(place)
    search(plan, place, again)
    assert again.ran == []


def test_more_trials_go_on_and_another_search_is_refused(new: Callable[[], Path]) -> None:
    from flotilla.studies.search import search, tried

    folder = new()
    place = Folder(path=folder / "searched")
    few = search(plan_of(folder, FILE.replace("trials = 6", "trials = 2")), place, Played(place))
    more = search(plan_of(folder), place, Played(place))
    assert more[:2] == few
    assert len(more) == 6
    assert tried(plan_of(folder), place) == more
    for other in (FILE.replace("0.01", "0.02"), FILE.replace("together", "seed = 2\ntogether")):
        with pytest.raises(SettingsError, match="another search"):
            search(plan_of(folder, other), place, Played(place))


def test_a_trial_whose_run_failed_has_no_score(new: Callable[[], Path]) -> None:
    from flotilla.studies.search import best, search

    folder = new()
    place, plan = Folder(path=folder / "searched"), plan_of(folder)

    def failing(cells: Sequence[Cell]) -> Progress:
        return Played(place)([cell for cell in cells if cell.seed == 1])

    trials = search(plan, place, failing)
    assert [one.score for one in trials] == [None] * 6
    assert best(trials) is None
    assert not (place.path / "best.toml").exists()


@pytest.mark.slow  # four runs, in processes of their own
def test_through_the_command(new: Callable[[], Path]) -> None:
    folder = new()
    text = FILE.replace("trials = 6", "trials = 2").replace("seed = [1, 2]", "seed = [1]")
    (folder / "search.toml").write_text(text)
    words = ["sweep", str(folder / "search.toml"), "--folder", str(folder / "searched"), "--jobs", "1"]
    out = CliRunner().invoke(app, words)
    assert out.exit_code == 0, out.output
    assert "best: trial" in out.output
    runs = {file.parent.name for file in (folder / "searched").glob("runs/*/summary.json")} - {"latest"}
    assert len(runs) == 2
    listed = CliRunner().invoke(app, [*words, "--list"])
    assert listed.output.count("trial ") == 3
    done = CliRunner().invoke(app, ["compare", str(folder / "searched")])
    assert done.exit_code == 0, done.output
