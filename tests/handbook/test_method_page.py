"""Every method that is registered has a page, each section of which says something; so has a plug-in's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.probes.structure import ROOT
from flotilla.settings import parse_run_config
from handbook import told
from handbook.dialect import links
from handbook.method_page import SECTIONS, method_pages
from handbook.navigation import METHODS as PLACE
from handbook.navigation import file_of
from handbook.numbers import rows_of
from handbook.parity import held
from handbook.pictures import Shown, shown
from handbook.recipes import read
from server_app.config.catalogue import option_keys
from strategies import METHODS, FedRolex, HeteroFL
from strategies.methods.fedavgm import FedAvgM
from strategies.methods.ranks.prefix_average import NestedRanks
from tests.plugins.my_lab.methods import FromOffset

PLUGIN = "tests.plugins.my_lab.methods:FromOffset"
NAMES = [*METHODS.names(), PLUGIN]


@pytest.fixture(scope="module")
def pages() -> Mapping[str, str]:
    return method_pages(ROOT, NAMES)[PLACE]


def sections(page: str) -> dict[str, str]:
    parts = re.split(r"^## (.+)$", page, flags=re.M)
    return {title: text.strip() for title, text in zip(parts[1::2], parts[2::2], strict=True)}


@pytest.mark.parametrize("name", NAMES)
def test_every_section_of_a_page_says_something(pages: Mapping[str, str], name: str) -> None:
    page = pages[file_of(name)]
    found = sections(page)
    assert tuple(found) == SECTIONS
    assert [title for title, text in found.items() if len(text) < 20] == []
    assert page.startswith(f"# {name}\n\n{told.summary(METHODS[name])}\n")
    command = re.search(r"^    flotilla run -c '([^']*)'$", page, re.M)
    assert command is not None
    assert parse_run_config([command[1]])["method"] == name
    assert max(map(len, command[1].splitlines())) < 80
    assert f"[`{name}`]({file_of(name)})" in pages["index.md"]
    for target in links(page):
        assert target in pages or (ROOT / PLACE / target).resolve().is_file(), target


@pytest.mark.parametrize("name", METHODS)
def test_what_is_built_in_says_all_of_it_itself(pages: Mapping[str, str], name: str) -> None:
    for part in ("Equation", "Traps"):
        assert told.part(METHODS[name], part).owner == METHODS[name].__name__
    found = sections(pages[file_of(name)])
    assert all(f"`{key}`" in found["Settings"] for key in option_keys()[name].values())
    picture = ElementTree.fromstring(pages[file_of(name).replace(".md", ".svg")])
    assert picture.tag.endswith("svg")


def test_a_plug_in_has_what_is_known_of_it(pages: Mapping[str, str]) -> None:
    found = sections(pages[file_of(PLUGIN)])
    assert "aₖ = bₖ = 1" in found["Equation"]
    assert "| `objective` |" in found["Equation"]
    assert set(re.findall(r"^\| `([\w.-]+)` \|", found["Settings"], re.M)) == {
        "from-offset-offset",
        "from-offset-smoothing",
    }
    assert found["Our numbers"].startswith("No table")
    assert found["The paper's"].startswith("None is confirmed")


def test_who_extends_a_method_has_its_equation() -> None:
    class Own(HeteroFL):
        """Ours."""

    class Other(HeteroFL):
        """Another.

        Options: some.

        Equation: x ← y,
        or so.
        """

    assert told.part(Own, "Equation") == told.part(HeteroFL, "Equation")
    assert told.part(Own, "Equation").owner == "HeteroFL"
    assert told.part(Other, "Equation") == told.Said(text="x ← y,\nor so.", owner="Other")
    assert told.part(Other, "Traps").owner == "HeteroFL"
    assert told.part(FromOffset, "Traps") == told.Said(text="", owner="")


def test_hooks_are_those_that_differ() -> None:
    assert [name for name, _, _ in told.hooks(FedAvgM)] == ["can_hold", "step"]
    rolex = {name: owner for name, _, owner in told.hooks(FedRolex)}
    assert rolex["plan"] == "HeteroFL"


def test_rows_are_of_one_method_each() -> None:
    names = METHODS.names()
    fjord = {cell for one in rows_of("fjord", ROOT / "docs", names) for row in one.rows for cell in row[:2]}
    assert "fjord-kd" in fjord
    exclusive = [
        row[0] for one in rows_of("depthfl-exclusive", ROOT / "docs", names) if one.heads[0] for row in one.rows
    ]
    assert set(exclusive) <= {"depthfl-exclusive", "depthfl-exclusive, Fashion-MNIST"}
    assert exclusive
    assert {one.page for one in rows_of("heterofl", ROOT / "docs", names)} >= {"results.md", "runs.md"}
    shared = [one for one in rows_of("exclusive", ROOT / "docs", names) if "methods" in one.heads]
    assert any("heterofl" in " ".join(one.rows[0]) for one in shared)


def test_tables_that_are_alike_are_one(tmp_path: Path) -> None:
    line = "| --- | --- |\n"
    tables = (
        f"**x**, seeds 1, 2\n\n| method | c |\n{line}| rbla | 1 |\n| flora | 2 |\n\n"
        f"**y**, seeds 1, 2\n\n| method | c |\n{line}| rbla | 3 |\n\n"
        f"b\n\n| method | d |\n{line}| rbla | 4 |\n"
    )
    (tmp_path / "a.md").write_text(f"# A\n\n## B\n\n<!-- t:begin -->\n{tables}<!-- t:end -->\n", encoding="utf-8")
    one, other = rows_of("rbla", tmp_path, METHODS.names())
    assert (one.heading, other.heading) == ("B: seeds 1, 2", "B")
    assert list(one.heads) == ["", "c"]
    assert one.rows == [["x", "1"], ["y", "3"]]
    assert (list(other.heads), other.rows) == (["method", "d"], [["rbla", "4"]])


def test_every_rule_about_ranks_that_was_compared_shows_its_numbers() -> None:
    compared = {row.split(",")[1] for row in (ROOT / "docs/ranks.csv").read_text().splitlines()[1:]} & set(METHODS)
    assert len(compared) > 10
    for name in compared:
        [found] = [one for one in rows_of(name, ROOT / "docs", METHODS.names()) if one.page == "ranks.md"]
        assert [row[0] for row in found.rows] == ["images-iid", "images-dirichlet", "text-iid", "text-dirichlet"]


def test_parity_is_the_rows_of_the_page() -> None:
    fiarse = held(ROOT, "fiarse", METHODS["fiarse"], ["fiarse-gradient"])
    assert (fiarse.owner, fiarse.row[0]) == ("FIARSE", "FIARSE")
    assert any("autograd" in note for note in fiarse.notes)
    assert "tests/parity/test_fiarse.py" in fiarse.tests
    assert held(ROOT, "mine:Own", NestedRanks, []).owner == "Fjord"
    assert held(ROOT, "heterofl", HeteroFL, []).notes != held(ROOT, "fedrolex", FedRolex, []).notes
    ours = held(ROOT, "smallest", METHODS["smallest"], [])
    assert (ours.row, ours.notes) == ([], [])


def test_a_method_that_no_job_fits_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(shown("rbla"), Shown)
    monkeypatch.setattr("handbook.pictures.JOBS", ({"model": "mlp", "tiers": "a:2"},))
    assert "tiers" in str(shown("heterofl"))


def test_a_recipe_without_a_source_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "some.toml"
    file.write_text('# Some.\n#\n# Expected: 1 %.\n\nmethod = "heterofl"\n')
    with pytest.raises(ValueError, match="Source"):
        read(file)
    file.write_text('# Some,\n# two lines.\n#\n# Expected: 1 %.\n#\n# Source: there.\n[grid]\nmethod = ["a", "b"]\n')
    found = read(file)
    assert (found.title, found.said["Source"], found.methods) == ("Some, two lines.", "there.", frozenset("ab"))
