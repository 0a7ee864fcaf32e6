"""One truth in a run folder: after any stop, kill, resume, and resume with more rounds, its files agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from shutil import copytree
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import SettingError
from server_app.folder import checkpoint
from server_app.folder.files import sync_folder
from server_app.folder.settle import settle_ended
from server_app.report.page import write_report
from tests.resume.walks import disagreements, play

MOST = 5  # rounds
STEPS = st.one_of(
    st.tuples(st.just("whole"), st.just(0)),
    st.tuples(st.just("stop"), st.integers(1, MOST)),
    st.tuples(st.just("kill"), st.integers(0, 60)),
    st.tuples(st.just("kill"), st.integers(0, 12)),
)


@pytest.fixture(scope="module")
def new_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    root, numbers = tmp_path_factory.mktemp("walks"), count()
    return lambda: root / f"run{next(numbers)}"


@pytest.fixture(scope="module")
def models(new_folder: Callable[[], Path]) -> dict[int, str]:
    """By round, the hash of the model of a run that nobody disturbed."""
    found = {}
    for rounds in range(1, MOST + 1):
        folder = new_folder()
        assert play(folder, rounds) == "finished"
        found[rounds] = json.loads((folder / "summary.json").read_text())["model"]["sha256"]
    assert len(set(found.values())) == MOST
    return found


def report(folder: Path) -> None:
    """What `flotilla report` does."""
    settle_ended(folder)
    with patch("server_app.report.page.figures", return_value=""):
        write_report(folder)


@settings(max_examples=15)
@given(
    steps=st.lists(st.tuples(STEPS, st.integers(0, 2), st.booleans()), min_size=1, max_size=5),
    every=st.sampled_from([1, 1, 2]),
)
def test_files_agree_after_every_stop(
    new_folder: Callable[[], Path],
    models: dict[int, str],
    steps: list[tuple[tuple[str, int], int, bool]],
    every: int,
) -> None:
    folder, rounds, begun = new_folder(), 1, False
    for (what, where), more, looked_at in steps:
        rounds = min(rounds + more, MOST)
        stop, kill = (where if what == "stop" else 0), (where if what == "kill" else None)
        ended = play(folder, rounds, every=every, resume=begun, stop=stop, kill=kill)
        begun = (folder / "config.json").exists()
        if ended != "killed":
            assert disagreements(folder, models) == [], ended
        elif looked_at and begun:  # else it is resumed as it lies there
            report(folder)
            assert disagreements(folder, models) == [], ended
    if begun:
        assert play(folder, rounds, every=every, resume=True) == "finished"
        assert disagreements(folder, models) == []
        assert json.loads((folder / "summary.json").read_text())["model"]["sha256"] == models[rounds]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("every", "first", "stop", "rounds"),
    [(1, 1, 0, 2), (2, 4, 4, 4)],
    ids=["more rounds", "stopped beyond its checkpoint"],
)
def test_every_instant_of_a_resumed_run(
    new_folder: Callable[[], Path], models: dict[int, str], every: int, first: int, stop: int, rounds: int
) -> None:
    """Killed before and after every single change of the folder, until there is none left."""
    begun = new_folder()
    assert play(begun, first, every=every, stop=stop) == ("stopped" if stop else "finished")
    ended, instant = "killed", 0
    while ended == "killed":
        folder = new_folder()
        copytree(begun, folder)
        ended = play(folder, rounds, every=every, resume=True, kill=instant)
        report(folder)
        assert disagreements(folder, models) == [], instant
        instant += 1
    assert instant > 15


@pytest.mark.parametrize("failing", [range(3, 4), range(4, 5), range(3, 7)], ids=["state", "tiers", "until the end"])
def test_a_disk_that_fails_while_the_model_gets_its_names(
    new_folder: Callable[[], Path], models: dict[int, str], failing: range
) -> None:
    """Each round puts two renames on the disk, of the state and of the tiers: the second round's fail."""
    folder, calls = new_folder(), count(1)

    def unsteady(path: Path) -> None:
        if next(calls) in failing:
            raise OSError(5, "Input/output error")
        sync_folder(path)

    with patch("server_app.folder.staged_file.sync_folder", unsteady):
        assert play(folder, 4, stop=3) == "stopped"
    report(folder)
    assert disagreements(folder, models) == []
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert ["checkpoint_error" in row for row in rows] == [False, True]


def test_a_model_that_is_lost_has_no_name(new_folder: Callable[[], Path], models: dict[int, str]) -> None:
    """The second round's state gets its name, its tiers do not, and the third round overwrites what was staged."""
    folder, calls, save = new_folder(), count(1), checkpoint.save

    def unsteady(path: Path) -> None:
        if next(calls) == 3:
            raise OSError(5, "Input/output error")
        sync_folder(path)

    def saved(checkpoints: Path, number: int, *more: Any, **named: Any) -> Path:
        if number == 3:
            raise checkpoint.CheckpointError("no room")
        return save(checkpoints, number, *more, **named)

    with (
        patch("server_app.folder.staged_file.sync_folder", unsteady),
        patch("server_app.folder.checkpoint.save", saved),
    ):
        assert play(folder, 5, stop=4) == "stopped"
    assert json.loads((folder / "summary.json").read_text())["model"] is None
    assert play(folder, 5, resume=True) == "finished"
    assert disagreements(folder, models) == []


def test_more_rounds_and_then_again(new_folder: Callable[[], Path], models: dict[int, str]) -> None:
    folder = new_folder()
    for rounds in (2, 3, 3, 5):
        assert play(folder, rounds, resume=rounds > 2) == "finished"
        assert disagreements(folder, models) == []
        assert json.loads((folder / "config.json").read_text())["config"]["num-server-rounds"] == rounds
    resumed = json.loads((folder / "config.json").read_text())["resumed"]
    assert [one["after_round"] for one in resumed] == [2, 3]


def test_fewer_rounds_than_it_has_done(new_folder: Callable[[], Path]) -> None:
    folder = new_folder()
    play(folder, 3)
    before = sorted((path, path.read_bytes()) for path in folder.rglob("*") if path.is_file())
    with pytest.raises(SettingError, match="num-server-rounds = 2: allowed is 3 or more: this run has done 3 rounds"):
        play(folder, 2, resume=True)
    assert sorted((path, path.read_bytes()) for path in folder.rglob("*") if path.is_file()) == before
