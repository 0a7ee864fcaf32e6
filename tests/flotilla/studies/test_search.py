"""A search for settings: devices alone score it, and it goes on where it was stopped."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from flotilla.cli import app
from flotilla.settings import SettingsError
from flotilla.studies.plan import Cell
from flotilla.studies.progress import Progress
from flotilla.studies.search_plan import SearchPlan
from flotilla.studies.sweep import Folder
from tests.flotilla.studies.searches import FILE, Played, plan_of

if TYPE_CHECKING:
    from flotilla.studies.search_journal import Trial


def test_without_optuna_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flotilla.studies.search import search

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SettingsError, match=r"flotilla\[search\]"):
        search(plan_of(tmp_path), Folder(path=tmp_path / "searched"), lambda cells, some: Progress())
    assert not (tmp_path / "searched").exists()


def searched(folder: Path) -> list[tuple[dict[str, object], float | None]]:
    """Values and scores of all trials, of a search that nothing stops."""
    from flotilla.studies.search import search

    place = Folder(path=folder / "searched")
    return [(dict(one.values), one.score) for one in search(plan_of(folder), place, Played(place))]


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


def runs_of(plan: SearchPlan, trials: Sequence[Trial]) -> list[list[str]]:
    """Names of the runs of each trial."""
    return [[cell.name for cell in plan.cells(one.number, one.values)] for one in trials]


def test_a_trial_whose_run_failed_has_no_score(new: Callable[[], Path]) -> None:
    from flotilla.studies.search import best, search

    folder = new()
    place, plan = Folder(path=folder / "searched"), plan_of(folder)
    runs = runs_of(plan, search(plan, Folder(path=folder / "other"), Played(Folder(path=folder / "other"))))
    all_fail = Played(place, failing=[second for _, second in runs[:2]])
    trials = search(plan_of(folder, FILE.replace("trials = 6", "trials = 2")), place, all_fail)
    assert [(one.score, one.state, one.why) for one in trials] == [(None, "failed", "no memory left")] * 2
    assert best(trials) is None
    assert not (place.path / "best.toml").exists()


def test_failed_trials_are_tried_again_when_asked_and_only_these(new: Callable[[], Path]) -> None:
    from flotilla.studies.search import search

    folder = new()
    place, plan = Folder(path=folder / "searched"), plan_of(folder)
    drawn = search(plan_of(folder, FILE.replace("trials = 6", "trials = 2")), place, Played(place))
    runs = runs_of(plan, drawn)
    place = Folder(path=folder / "another")
    first = search(plan, place, Played(place, failing=[runs[1][0]]))
    assert [one.state for one in first] == ["scored", "failed", *["scored"] * 4]

    unasked = Played(place)
    assert search(plan, place, unasked) == first
    assert unasked.ran == []

    # It fails again, while the search goes on with more trials: those of later batches don't run it once more.
    longer = plan_of(folder, FILE.replace("trials = 6", "trials = 10"))
    failing = Played(place, failing=[runs[1][0]], retry=True)
    more = search(longer, place, failing, retry=True)
    assert failing.ran.count(runs[1][0]) == 1
    assert len(failing.ran) == 1 + 4 * 2
    assert [one.values for one in more[:6]] == [one.values for one in first]
    assert [one.state for one in more] == ["scored", "failed", *["scored"] * 8]

    again = Played(place, retry=True)
    whole = search(longer, place, again, retry=True)
    assert again.ran == [runs[1][0]]
    assert len(again.listed) == len({*again.listed}) == 20  # all that there are, for `flotilla compare`
    assert [one.number for one in whole] == list(range(10))
    assert whole[1].values == first[1].values
    assert whole[1].score == drawn[1].score
    assert [one for one in whole if one.number != 1] == [one for one in more if one.number != 1]
    nothing = Played(place, retry=True)
    assert search(longer, place, nothing, retry=True) == whole
    assert nothing.ran == []


def test_a_trial_whose_run_was_stopped_stays_open(new: Callable[[], Path]) -> None:
    from flotilla.studies.search import search

    whole, folder = searched(new()), new()
    place, plan = Folder(path=folder / "searched"), plan_of(folder)
    two = search(plan_of(folder, FILE.replace("trials = 6", "trials = 2")), place, Played(place))
    stopped = runs_of(plan, two)[1][1]
    place = Folder(path=folder / "another")
    first = Played(place, stopped=[stopped])
    trials = search(plan, place, first)
    # What would be drawn next depends on its score.
    assert [one.state for one in trials] == ["scored", "to do"]
    then = Played(place)
    assert [(dict(one.values), one.score) for one in search(plan, place, then)] == whole
    assert then.ran[0] == stopped
    assert len(first.ran) + len(then.ran) == 13


def test_a_trial_that_nobody_scored_is_not_tried_again(new: Callable[[], Path]) -> None:
    from flotilla.studies.search import search

    folder = new()
    place, plan = Folder(path=folder / "searched"), plan_of(folder, FILE.replace("trials = 6", "trials = 2"))

    def unscored(cells: Sequence[Cell], some: Sequence[Cell]) -> Progress:
        Played(place)(cells, some)
        for cell in some:
            (place.run(cell) / "metrics.jsonl").write_text('{"round": 2, "accuracy": 0.5}\n')
        return Progress()

    trials = search(plan, place, unscored)
    assert [(one.state, "no device" in one.why) for one in trials] == [("failed", True)] * 2
    again = Played(place, retry=True)
    assert search(plan, place, again, retry=True) == trials
    assert again.ran == []
    assert '"again"' not in (place.path / "search.log").read_text()  # not even an entry


def test_a_trial_that_was_half_drawn_is_drawn_anew(new: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import optuna

    from flotilla.studies.search import search

    whole, folder = searched(new()), new()
    place, plan = Folder(path=folder / "searched"), plan_of(folder)
    independent = optuna.samplers.TPESampler.sample_independent

    def killed(self: Any, study: Any, trial: Any, name: str, distribution: Any) -> Any:
        if trial.number == 1 and name == "batch-size":
            raise KeyboardInterrupt
        return independent(self, study, trial, name, distribution)

    with monkeypatch.context() as patched:
        patched.setattr(optuna.samplers.TPESampler, "sample_independent", killed)
        with pytest.raises(KeyboardInterrupt):
            search(plan, place, Played(place))
    assert [(dict(one.values), one.score) for one in search(plan, place, Played(place))] == whole


PAIRS = """
[settings]
dataset = "digits"
model = "mlp"
num-clients = 10
num-server-rounds = 2
aggregation-mode = "buffered"
simulated-devices = "mixed"
device = "cpu"

[search]
trials = 8
together = 2
learning-rate = { low = 0.01, high = 1.0, log = true }
buffer-size = [2, 8]
fraction-train = [1.0, 0.2]
"""


def test_values_that_cannot_be_together_are_refused_and_the_search_goes_on(
    new: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flotilla.studies.sweep import settings_of

    folder = new()
    (folder / "search.toml").write_text(PAIRS)
    ran: list[Cell] = []

    def played(
        place: Folder, cells: Sequence[Cell], app_dir: Path, *, only: Sequence[Cell], **options: object
    ) -> Progress:
        for cell in cells:
            settings_of(place, cell, app_dir, ())  # which a sweep refuses to start with
        ran.extend(only)
        return Played(place)(cells, only)

    monkeypatch.setattr("flotilla.studies.sweep.run_sweep", played)
    words = ["sweep", str(folder / "search.toml"), "--folder", str(folder / "searched")]
    out = CliRunner().invoke(app, words)
    assert out.exit_code == 0, out.output
    refused = [line for line in out.output.splitlines() if line.startswith("trial ") and "  refused  " in line]
    assert 0 < len(refused) < 8
    assert all("buffer-size=8, fraction-train=0.2: buffer-size = 8: allowed is" in line for line in refused)
    assert f"{len(refused)} trials refused" in out.stderr
    assert len(ran) == 8 - len(refused)
    assert not any((cell.keys["buffer-size"], cell.keys["fraction-train"]) == (8, 0.2) for cell in ran)
    best = [line for line in out.output.splitlines() if line.startswith("best: ")]
    listed = CliRunner().invoke(app, [*words, "--list"])
    assert listed.exit_code == 0
    for again in (CliRunner().invoke(app, words), CliRunner().invoke(app, [*words, "--retry"]), listed):
        assert [
            line for line in again.output.splitlines() if line.startswith("trial ") and "refused" in line
        ] == refused
        assert [line for line in again.output.splitlines() if line.startswith("best: ")] == best
    assert len(ran) == 8 - len(refused)


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
