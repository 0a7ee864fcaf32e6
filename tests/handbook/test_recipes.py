"""The settings of papers: each is taken at the door as it stands, and starts on a few small pictures."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from benchmarks.probes.structure import ROOT
from flotilla.settings import flatten
from flotilla.studies.plan import read_plan
from handbook.recipes import FOLDER, read, recipes
from models.algebra.plans import Plan
from models.cost import cost_of
from protocol import Scalar
from server_app.config import resolve
from strategies import METHODS
from tests.support import play

FILES = sorted((ROOT / FOLDER).glob("*.toml"))
DATA = {"cifar10": "LikeCifar10", "cifar100": "LikeCifar100", "mnist": "LikeMnist"}
# What makes two rounds of it a matter of seconds; widths are divided, so that the network has its form.
FEW: Mapping[str, Scalar] = {
    "num-clients": 8,
    "fraction-train": 1.0,
    "fraction-evaluate": 0.0,
    "num-server-rounds": 2,
    "local-epochs": 1,
    "local-steps": 1,
    "batch-size": 4,
    "evaluate-every": 2,
}
NARROWER = 4


def cells(file: Path) -> Iterator[Mapping[str, Scalar]]:
    """Settings of every run of a recipe."""
    if {"grid", "rows"} & set(tomllib.loads(file.read_text())):
        yield from (cell.keys for cell in read_plan(file))
    else:
        yield flatten(tomllib.loads(file.read_text()))


def here(keys: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The same on pictures that are there, of the shape and classes of the data set's."""
    return {**keys, "dataset": f"tests.small_pictures:{DATA[str(keys['dataset'])]}"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_taken_at_the_door(file: Path) -> None:
    runs = list(cells(file))
    assert runs
    for keys in runs:
        config = resolve(here(keys))
        assert {key: config.flat[key] for key in keys if key != "dataset"} == {
            key: value for key, value in keys.items() if key != "dataset"
        }


def test_each_says_what_is_expected_and_where_that_stands() -> None:
    found = recipes(ROOT)
    assert len(found) == len(FILES) >= 10
    for one in found:
        assert set(one.said) == {"Expected", "Source", "Differs"}
        assert one.methods
        assert one.methods <= set(METHODS)
    listed = (ROOT / FOLDER / "README.md").read_text()
    assert [one.file for one in found if f"- [{one.file}]({one.file}): {one.title}\n" not in listed] == []
    named = set().union(*(one.methods for one in found))
    assert named >= {"heterofl", "fjord", "fedrolex", "depthfl", "scalefl", "nefl", "fiarse", "splitmix"}


def kept_unsaid(file: Path) -> set[float]:
    """Shares of the devices' examples that a recipe keeps from training though nothing at its top says so."""
    said = read(file).said
    if "`local-test-fraction`" in said["Source"] + said.get("Differs", ""):
        return set()
    return {float(resolve(here(keys)).flat["local-test-fraction"]) for keys in cells(file)} - {0.0}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_trains_on_all_examples_or_says_why_not(file: Path) -> None:
    assert not kept_unsaid(file)


def test_a_default_that_keeps_examples_from_training_is_noticed(tmp_path: Path) -> None:
    """As it was: the setting left out, and with it a tenth of every device's examples."""
    text = (ROOT / FOLDER / "heterofl-mnist-iid.toml").read_text()
    file = tmp_path / "without.toml"
    file.write_text(text.replace("local-test-fraction = 0.0\n", ""))
    assert kept_unsaid(file) == {0.1}


def test_heterofls_network_is_the_published_one() -> None:
    """The parameters of the paper's levels."""
    [keys] = cells(ROOT / FOLDER / "heterofl-cifar10-iid.toml")
    network = resolve(here(keys)).strategy().network
    found = [cost_of(network, Plan(Fraction(1, part))).parameters for part in (1, 2, 4, 8, 16)]
    assert found == [9_622_090, 2_408_746, 603_802, 151_762, 38_350]


@pytest.mark.slow  # a minute; each is a network of eighteen layers
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_starts(file: Path, tmp_path: Path) -> None:
    for number, keys in enumerate(cells(file)):
        small = {**here(keys), **FEW}
        if widths := keys.get("widths"):
            narrower = [max(int(one) // NARROWER, 4) for one in str(widths).split(",")]
            small["widths"] = ", ".join(map(str, narrower))
        told: dict[str, Any] = {key.replace("-", "_"): value for key, value in small.items()}
        out = play(tmp_path / str(number), **told)
        assert out.summary["status"] == "finished"
        assert not out.rejected
        assert set(out.summary["last"]["tiers"]) >= {str(keys["tiers"]).split(":")[0].strip()}
