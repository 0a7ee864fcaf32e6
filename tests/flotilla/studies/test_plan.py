"""A sweep's file: which runs it stands for, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from flotilla.settings import SettingsError
from flotilla.studies.plan import Cell, read_plan
from server_app.config import resolve


def plan(folder: Path, text: str) -> list[Cell]:
    file = folder / "sweep.toml"
    file.write_text(text, encoding="utf-8")
    return read_plan(file)


def test_a_grid_is_every_combination_and_seeds_stand_together(tmp_path: Path) -> None:
    cells = plan(
        tmp_path,
        '[settings]\ndataset = "digits"\n[grid]\nseed = [1, 2]\n'
        'method = ["heterofl", "fedavg"]\nlearning-rate = [0.1, 0.2]\n',
    )
    assert len({cell.name for cell in cells}) == len(cells) == 8
    assert [cell.row for cell in cells[:4]] == ["heterofl, learning-rate=0.1"] * 2 + ["heterofl, learning-rate=0.2"] * 2
    assert [cell.seed for cell in cells[:4]] == [1, 2, 1, 2]
    assert cells[0].keys == {"dataset": "digits", "method": "heterofl", "learning-rate": 0.1, "seed": 1}
    assert cells[0].shown == "heterofl, learning-rate=0.1, seed 1"


def test_the_example_is_the_one_in_the_document() -> None:
    root = Path(__file__).parents[3]
    told = (root / "docs/compare.md").read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    bare = [line.split("#")[0].strip() for line in told.splitlines()]
    there = [line.split("#")[0].strip() for line in (root / "examples/three.toml").read_text().splitlines()]
    assert [line for line in bare if line] == [line for line in there if line]
    assert len(read_plan(root / "examples/three.toml")) == 9


def test_every_run_of_the_example_of_ranks_can_be() -> None:
    cells = read_plan(Path(__file__).parents[3] / "examples/ranks.toml")
    assert len(cells) == 15 * 2 * 3
    first = [cell for cell in cells if cell.seed == 1]
    assert {resolve({}, overrides=dict(cell.keys)).network.adapter is not None for cell in first} == {True}


def test_rows_have_names_and_settings_of_their_own(tmp_path: Path) -> None:
    cells = plan(tmp_path, '[rows."no Scaler"]\nscaler = "off"\n[rows.usual]\n[grid]\nseed = [1, 2]\n')
    assert [(cell.row, cell.seed) for cell in cells] == [("no Scaler", 1), ("no Scaler", 2), ("usual", 1), ("usual", 2)]
    assert cells[0].keys == {"scaler": "off", "seed": 1}
    assert plan(tmp_path, "[rows.usual]\n")[0].shown == "usual"


def test_other_settings_are_another_run_and_the_same_are_the_same(tmp_path: Path) -> None:
    text = '[settings]\nbatch-size = {}\n[grid]\nmethod = ["heterofl"]\n'
    names = [plan(tmp_path, text.format(size))[0].name for size in (8, 16, 8)]
    assert names[0] == names[2] != names[1]
    assert names[0].startswith("heterofl-")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[grid\n", "cannot read"),
        ("", "at least one list in"),
        ('[rows]\nscaler = "off"\n', r"\[rows\] scaler = 'off': allowed are tables"),
        ("[grid]\nseed = 1\n", r"seed = 1: allowed is a list of values"),
        ("[grid]\nseed = []\n", "allowed is a list of values"),
        ("[grid]\nseed = [1, 1]\n", "every value once"),
        ("[grid]\nseed = [[1]]\n", "allowed is an integer, a float"),
        ("[greed]\nseed = [1]\n", r"greed: allowed are the tables \[settings\], \[grid\] and \[rows.NAME\]"),
        ("grid = 1\n", "allowed are the tables"),
        ("[settings]\nseed = 1\n[grid]\nseed = [1]\n", r"seed stands in \[grid\] and in \[settings\]"),
        ("[rows.a]\nseed = 1\n[grid]\nseed = [1]\n", r'seed stands in \[grid\] and in \[rows."a"\]'),
        ('[settings]\nrun-dir = "x"\n[grid]\nseed = [1]\n', "run-dir: a sweep chooses it"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        plan(tmp_path, text)
    with pytest.raises(SettingsError, match="cannot read"):
        read_plan(tmp_path / "other.toml")
