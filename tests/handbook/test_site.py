"""The built site: MkDocs has no warning, and a browser loads nothing from elsewhere.

`make docs` runs this over what it has built; by itself it builds, where MkDocs is (`.venv-docs`), and is skipped
elsewhere.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchmarks.probes.structure import ROOT
from handbook.navigation import PAGES, files

LOADS = {"src", "srcset", "poster", "data", "href"}
FOLLOWED = {"a"}  # links that a person follows, which nothing loads


class Loaded(HTMLParser):
    """Collects what a browser loads for a page, what a person can follow, and classes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.classes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "class":
                self.classes |= set((value or "").split())
            if name in LOADS and value:
                (self.linked if tag in FOLLOWED else self.loaded).append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if built := os.environ.get("FLOTILLA_SITE"):
        return Path(built).absolute()
    own = ROOT / ".venv-docs/bin/mkdocs"
    mkdocs = str(own) if own.exists() else shutil.which("mkdocs")
    if mkdocs is None:
        pytest.skip("no MkDocs: make docs")
    folder = tmp_path_factory.mktemp("handbook")
    subprocess.run([sys.executable, "-m", "handbook", str(folder / "handbook")], cwd=ROOT, check=True)
    command = [mkdocs, "build", "--strict", "-f", str(folder / "handbook/mkdocs.yml")]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr  # --quiet would count no warnings
    assert "WARNING" not in done.stdout + done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Loaded]:
    return {str(file.relative_to(site)): Loaded(file.read_text()) for file in sorted(site.rglob("*.html"))}


pytestmark = [] if os.environ.get("FLOTILLA_SITE") else [pytest.mark.slow]


def test_every_page_is_there(pages: dict[str, Loaded]) -> None:
    for page in files(PAGES):
        assert page.replace("README", "index").replace(".md", ".html") in pages


def test_a_browser_loads_nothing_from_elsewhere(site: Path, pages: dict[str, Loaded]) -> None:
    far = re.compile(r"^(https?:)?//")
    assert len(pages) > 20
    assert {name: [one for one in page.loaded if far.match(one)] for name, page in pages.items()} == {
        name: [] for name in pages
    }
    styles = [file.read_text() for file in site.rglob("*.css")]
    assert styles
    assert [found for style in styles for found in re.findall(r"(?:url\(|@import )\W*(?:https?:)?//", style)] == []
    # The theme's script would fetch these for a page that has them.
    assert not any({"mermaid", "md-source"} & page.classes for page in pages.values())


def test_every_file_that_a_page_names_is_there(site: Path, pages: dict[str, Loaded]) -> None:
    for name, page in pages.items():
        for target in [*page.loaded, *page.linked]:
            path = re.sub(r"[?#].*", "", target)
            if path and "://" not in target and not target.startswith(("data:", "mailto:")):
                place = site / path.lstrip("/") if path.startswith("/") else (site / name).parent / path
                assert place.exists(), f"{name}: {target}"
