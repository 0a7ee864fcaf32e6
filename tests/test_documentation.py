"""What the documents say is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from server_app.config import Key, keys
from server_app.config.document import current
from strategies import METHODS

ROOT = Path(__file__).resolve().parents[1]


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


@pytest.mark.parametrize("document", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda path: path.name)
def test_links_and_named_files_exist(document: Path) -> None:
    text = document.read_text()
    links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", text) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []
    # Files of ours that are named in running text, such as `strategies/exchange/messaging.py`.
    named = re.findall(r"`((?:models|protocol|data|strategies|client_app|server_app|flotilla|tests)/[\w/]+\.py)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []
