"""The folder that the site is built from: every document has its place, and links lead where they led."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.probes.structure import ROOT
from handbook.dialect import for_mkdocs, links, moved
from handbook.navigation import PAGES, file_of, files, navigation
from handbook.staging import CONFIGURATION, PAGES_FOLDER, LinkError, stage


def test_every_document_has_a_place() -> None:
    placed = list(files(PAGES))
    assert len(placed) == len(set(placed))
    written = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")]
    written += ROOT.glob("recipes/*.md")
    assert {str(file.relative_to(ROOT)) for file in written} == set(placed)


def test_the_path_begins_with_what_a_newcomer_does() -> None:
    titles = [title for title, _ in navigation(["fedavg", "my_lab.methods:Own"])]
    assert titles == ["Start", "Tutorials", "Methods", "Guides", "Reference", "Results"]
    assert set(files(navigation(["fedavg"]))) - set(files(PAGES)) == {"docs/methods/index.md", "docs/methods/fedavg.md"}
    assert file_of("my_lab.methods:Own") == "my_lab.methods.Own.md"


def test_pages_and_what_they_link_to_are_at_their_places(tmp_path: Path) -> None:
    methods = {"docs/methods": {"index.md": "# Methods\n"}}
    stage(ROOT, tmp_path / "site", methods, listed=["fedavg"])
    pages = tmp_path / "site" / PAGES_FOLDER
    for page in files(PAGES):
        assert [
            one for one in links((ROOT / page).read_text()) if not (pages / page).parent.joinpath(one).exists()
        ] == []
    assert (pages / "docs/methods/index.md").read_text() == "# Methods\n"
    assert (pages / "docs/idea.svg").read_bytes() == (ROOT / "docs/idea.svg").read_bytes()
    told = json.loads((tmp_path / "site" / CONFIGURATION).read_text())
    assert told["theme"]["font"] is False
    assert {"repo_url", "extra_javascript"} & set(told) == set()
    for own in (*told["extra_css"], *told["extra"]["polyfills"]):
        assert (pages / own).is_file()
    assert {"docs/methods/fedavg.md"} <= {page for _, page in _pairs(told["nav"])}
    (pages / "stale.md").write_text("of an earlier time")
    stage(ROOT, tmp_path / "site", methods, listed=[])
    assert not (pages / "stale.md").exists()


def test_a_folder_with_something_else_in_it_stays(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("of years")
    with pytest.raises(FileExistsError, match="allowed is a new folder"):
        stage(ROOT, tmp_path, {}, listed=[])
    assert (tmp_path / "mine.txt").read_text() == "of years"


def _pairs(nav: list[dict[str, object]]) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for entry in nav:
        for title, below in entry.items():
            found += _pairs(below) if isinstance(below, list) else [(title, below)]
    return found


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("docs", "allowed are files"),
        ("nowhere.md", "allowed are files"),
        ("../../outside.txt", "allowed are files"),
        ("other.md", "navigation"),
    ],
)
def test_a_link_that_goes_nowhere_is_an_error(tmp_path: Path, target: str, why: str) -> None:
    root = tmp_path / "in" / "root"
    for page in files(PAGES):
        (root / page).parent.mkdir(parents=True, exist_ok=True)
        (root / page).write_text("# A page\n")
    (tmp_path / "in" / "outside.txt").write_text("not of the repository")
    (root / "other.md").write_text("# Another\n")
    (root / "README.md").write_text(f"[there]({target})\n")
    with pytest.raises(LinkError, match=why):
        stage(root, tmp_path / "site", {}, listed=[])


def test_what_github_reads_otherwise_is_said_otherwise() -> None:
    page = "Some:\n- one\n  more\n- two\n<!-- t:begin -->\n| a |\n<!-- t:end -->\n```sh slow\n- x\n<!-- y -->\n```\n"
    assert for_mkdocs(page) == ("Some:\n\n- one\n  more\n- two\n\n| a |\n\n```sh\n- x\n<!-- y -->\n```\n")
    assert for_mkdocs("```python my/own.py\nx\n```") == '``` { .python title="my/own.py" }\nx\n```'
    assert for_mkdocs("| 1.2 ± 3.4 | 5 / 6 | a / b |") == "| 1.2\xa0±\xa03.4 | 5\xa0/\xa06 | a / b |"
    assert for_mkdocs("    - code\n") == "    - code\n"


def test_links_of_text_that_moved() -> None:
    text = "[a](privacy.md), [b](data.md#own), [c](https://flower.ai), [d](#here), ![e](x.svg)"
    assert (
        moved(text, "../")
        == "[a](../privacy.md), [b](../data.md#own), [c](https://flower.ai), [d](#here), ![e](../x.svg)"
    )
    assert links(text) == ["privacy.md", "data.md", "x.svg"]
