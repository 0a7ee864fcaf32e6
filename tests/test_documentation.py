"""What the documents say is what the code has."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from models.algebra.plans import Plan
from models.settings import Setting
from server_app.config import Key, keys
from server_app.config.document import current
from strategies import METHODS, FedRolex, HeteroFL, NetworkSpec, Settings

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("models", "protocol", "data", "strategies", "client_app", "server_app", "flotilla", "benchmarks", "handbook")
WRITTEN = sorted(file for place in ("*.md", "docs/**/*.md", "recipes/*.md") for file in ROOT.glob(place))
IN_WHEELS = {"flotilla/app_folder/"}  # made while one is built


@pytest.mark.parametrize(("path", "text"), current(ROOT).items(), ids=lambda part: getattr(part, "name", ""))
def test_what_is_written_from_the_settings_is_up_to_date(path: Path, text: str) -> None:
    assert path.read_text(encoding="utf-8") == text, "run `make keys`"


@pytest.mark.parametrize("key", keys(), ids=lambda key: key.name)
def test_every_value_of_a_closed_set_is_explained(key: Key) -> None:
    by_hand = re.sub(
        r"<!-- (.*):begin -->.*?<!-- \1:end -->", "", (ROOT / "docs/configuration.md").read_text(), flags=re.S
    )
    told = (ROOT / "README.md").read_text() if key.name == "method" else key.words + by_hand
    assert [name for name in key.names if f"`{name}`" not in told] == []
    assert key.words


def test_the_readme_lists_every_method() -> None:
    listed = re.findall(r"^\| `([a-z-]+)` \|", (ROOT / "README.md").read_text(), re.M)
    assert listed[1:] == list(METHODS)  # the first is the head of the table


def test_the_readmes_method_is_the_one_that_there_is() -> None:
    block = re.search(r"^    class FedRolex.*?(?=^\S)", (ROOT / "README.md").read_text(), re.M | re.S)
    assert block is not None
    names: dict[str, Any] = {"HeteroFL": HeteroFL, "Plan": Plan, "Setting": Setting}
    exec(dedent(block[0]), names)  # our own page
    told = NetworkSpec("mlp", (1, 8, 8), 10), Settings()
    theirs, ours = names["FedRolex"](*told), FedRolex(*told)
    assert theirs.options == ours.options
    for round_number in (1, 2, 7):
        for tier in Settings().tiers:
            context = ours.context(round_number)
            assert theirs.kept_plan(context, tier) == ours.kept_plan(context, tier)
    assert {name for name in vars(names["FedRolex"]) if not name.startswith("_")} == {
        name for name in vars(FedRolex) if not name.startswith("_")
    }


@pytest.mark.parametrize("document", WRITTEN, ids=lambda path: path.name)
def test_links_and_named_files_exist(document: Path) -> None:
    text = document.read_text()
    links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", text) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []
    # Files and folders of ours that are named in running text, such as `strategies/exchange/messaging.py`.
    named = re.findall(rf"`((?:{'|'.join((*ROOMS, 'tests'))})/(?:[\w/]+\.py|[\w/]*/))`", text)
    assert [name for name in named if not (ROOT / name).exists() and name not in IN_WHEELS] == []


def test_every_part_of_parity_has_its_tests() -> None:
    """Every row names files of tests, and every difference the test that shows it, except where nothing is compared."""
    text = (ROOT / "docs/parity.md").read_text()
    heads = ("| method", "| tests", "| ---")
    rows = [line for line in text.splitlines() if line.startswith("|") and not line.startswith(heads)]
    differences = re.findall(r"^- (\*\*.*(?:\n  .*)*)", text, re.M)
    assert (len(rows), len(differences)) > (25, 13)
    for part in (*rows, *differences):
        named = re.findall(r"`((?:[\w/]+/)?test_\w+\.py|tests/[\w/]+)(?:::(\w+))?`", part)
        assert named, part
        for file, test in named:
            place = ROOT / file if "/" in file else ROOT / "tests/parity" / file
            assert place.exists(), file
            assert not test or f"def {test}(" in place.read_text(), test
    assert all("::" in one for one in differences)


def test_the_rooms_of_the_architecture_are_there() -> None:
    """Every file and folder of the plan stands somewhere in its package, and every folder of a package in the plan."""
    text = (ROOT / "docs/architecture.md").read_text()
    plan = text.split("## Rooms\n")[1].split("\nWho may import whom")[0]
    parts = re.split(rf"^    ({'|'.join(ROOMS)})/ ", plan, flags=re.M)
    assert tuple(parts[1::2]) == ROOMS
    for package, told in zip(parts[1::2], parts[2::2], strict=True):
        home = ROOT / package
        files = {path.name for path in home.rglob("*.py")}
        folders = {path.name for path in home.rglob("*") if path.is_dir() and path.name != "__pycache__"}
        assert set(re.findall(r"\b(\w+\.py)\b", told)) - files == set(), package
        named = set(re.findall(r"\b(\w+)/", told))
        assert named - folders == set(), package
        rooms = {path.name for path in home.iterdir() if (path / "__init__.py").exists()}
        assert rooms - named == set(), package


def test_the_architectures_table_has_every_method() -> None:
    """By name, whatever its spelling; those that the table describes together stand in one line."""
    table = (ROOT / "docs/architecture.md").read_text().split("| method |")[1].split("\n\n")[0]
    named = re.sub(r"[^a-z,|]", "", " ".join(line.split("|")[1] + "," for line in table.splitlines()[2:]).lower())
    others = {"dropout": "federateddropout"}
    known = set(named.split(",")) | {"depthflexclusive" if "depthfl,exclusive" in named else ""}
    missing = [name for name in METHODS if others.get(name, name.replace("-", "")) not in known]
    assert missing == []
