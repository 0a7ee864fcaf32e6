"""The table of faults names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs/faults.md").read_text())


@pytest.mark.parametrize(("file", "test"), sorted(set(NAMED)))
def test_every_named_test_exists(file: str, test: str) -> None:
    assert f"\ndef {test}(" in (ROOT / file).read_text()


def test_every_row_names_one() -> None:
    rows = [row for row in (ROOT / "docs/faults.md").read_text().splitlines() if row.startswith("| ")]
    assert [row for row in rows if "::" not in row and not row.startswith("| fault")] == []
    assert len(rows) > 35
