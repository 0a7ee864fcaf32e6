"""A search for settings: what its file may say."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flotilla.cli import app
from flotilla.settings import SettingsError
from flotilla.studies.search_plan import Range, read_search
from tests.flotilla.studies.searches import FILE, plan_of


def test_what_the_file_says(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert (plan.trials, plan.together, plan.seed, plan.seeds) == (6, 2, 1, [1, 2])
    assert plan.space["learning-rate"] == Range(low=0.01, high=1.0, log=True)
    assert plan.space["batch-size"] == Range(low=8, high=64, step=8)
    assert plan.settings["fraction-evaluate"] == 1.0
    # Neither a default nor an app's own setting lets the test set act on a trial.
    assert [plan.settings[key] for key in ("patience", "target", "guard-rollbacks")] == [0, "", 0]
    first, second = plan.cells(3, {"learning-rate": 0.5})
    assert (first.row, first.seed, second.seed) == ("trial 3, learning-rate=0.5", 1, 2)
    assert (second.keys["seed"], second.keys["learning-rate"], second.keys["model"]) == (2, 0.5, "mlp")
    corners = list(plan.corners())
    assert len(corners) == 5
    assert [corner["seed"] for corner in corners] == [1, 2, 1, 1, 1]
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
        ("[settings]\nguard-rollbacks = 3\n[search]\nbatch-size = [8]\n", "allowed is 0: .* no test set"),
        ("[search]\npatience = [0, 3]\n", "no test set"),
        ("[search]\ntarget = ['', '0.9']\n", "no test set"),
        ("[search]\nguard-rollbacks = { low = 0, high = 3 }\n", "no test set"),
        ("[search]\nbatch-size = [8]\n[grid]\npatience = [0, 3]\n", "seed alone"),
        ("[search]\nbatch-size = [8]\n[grid]\nseed = [1]\npatience = [0, 3]\n", "seed alone"),
        ("[search]\nbatch-size = [8]\n[grid]\nseed = [1, 1]\n", "every value once"),
        ("[search]\nbatch-size = [8]\n[grid]\nseed = 1\n", "list of values"),
        ("[search]\nbatch-size = [8]\n[grid]\nseed = [{ a = 1 }]\n", "list of values"),
        ("[search]\nbatch-size = [{ a = 1 }]\n", "a list of values"),
        ("[settings]\nseed = 3\n[search]\nbatch-size = [8]\n[grid]\nseed = [1]\n", "one of them"),
        ("[search]\nlocal-test-fraction = [0.0, 0.2]\n", "devices' own"),
        ("[search]\nlocal-test-fraction = { low = 0.0, high = 0.2 }\n", "devices' own"),
        ("[settings]\nfraction-evaluate = 0.0\n[search]\nbatch-size = [8]\n", "devices' own"),
        ("[settings]\nlocal-test-fraction = 0.0\n[search]\nbatch-size = [8]\n", "devices' own"),
    ],
)
def test_what_the_file_must_not_say(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        plan_of(tmp_path, text)


@pytest.mark.parametrize(
    ("told", "instead", "why"),
    [
        ("[0.0, 0.9]", "[0.0, 1.9]", "momentum = 1.9"),
        ("seed = [1, 2]", "seed = ['x']", "seed = 'x'"),
        ("seed = [1, 2]", "seed = [1, 1.5]", "seed = 1.5"),
        ("seed = [1, 2]", "seed = [1, -1]", "seed = -1"),
    ],
)
def test_ends_of_ranges_and_seeds_are_checked_before_anything_starts(
    tmp_path: Path, told: str, instead: str, why: str
) -> None:
    (tmp_path / "search.toml").write_text(FILE.replace(told, instead))
    out = CliRunner().invoke(app, ["sweep", str(tmp_path / "search.toml"), "--folder", str(tmp_path / "searched")])
    assert out.exit_code == 2
    assert why in out.stderr
    assert not (tmp_path / "searched").exists()
