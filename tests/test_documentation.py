"""What the documents say is what the code has."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from data import AUGMENTATIONS, SCHEMES, SOURCES
from models import NETWORKS
from models.norms.layers import NORMS
from protocol.codecs.settings import CODECS, ENTROPIES, SCALES
from protocol.codecs.settings import NORMS as CODEC_NORMS
from server_app.config.resolve import defaults
from strategies import METHODS
from strategies.aggregation import AGGREGATIONS
from strategies.clustering.ifca import AVERAGING
from strategies.clustering.linkage import LINKAGES
from strategies.clustering.options import CLUSTERINGS
from strategies.selection import SELECTORS
from strategies.settings import SCHEDULES, SLICING
from strategies.tiers.tier import ASSIGNMENTS

ROOT = Path(__file__).resolve().parents[1]
CONFIGURATION = (ROOT / "docs/configuration.md").read_text()


@pytest.mark.parametrize("key", defaults())
def test_every_key_stands_in_the_table_with_its_default(key: str) -> None:
    rows = [line for line in CONFIGURATION.splitlines() if line.startswith("|") and f"`{key}`" in line.split("|")[1]]
    assert len(rows) == 1
    default = defaults()[key]
    shown = default if isinstance(default, str) and default and " " not in default else json.dumps(default)
    assert f"`{shown}`" in rows[0].split("|")[2]


CLOSED = (
    METHODS,
    NETWORKS,
    NORMS,
    SOURCES,
    SCHEMES,
    AUGMENTATIONS,
    SELECTORS,
    AGGREGATIONS,
    SCHEDULES,
    SLICING,
    ASSIGNMENTS,
    CODECS,
    CODEC_NORMS,
    SCALES,
    ENTROPIES,
    CLUSTERINGS,
    AVERAGING,
    LINKAGES,
)


@pytest.mark.parametrize("names", CLOSED)
def test_every_value_of_a_closed_set_is_named(names: list[str]) -> None:
    assert [name for name in names if f"`{name}`" not in CONFIGURATION] == []


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
