"""The benchmark of loading, small: what it loads is there, and it leaves nothing behind."""

from __future__ import annotations

import os

from benchmarks.bench.loading import LIMIT, loading


def test_each_way_has_a_row() -> None:
    before = os.environ.get("FLOTILLA_CACHE")
    rows = loading(lambda _: None, examples=300, pictures=20)
    assert [row.limit for row in rows] == [LIMIT, LIMIT, None]
    assert all(row.measured > 0 and row.reference > 0 for row in rows)
    assert os.environ.get("FLOTILLA_CACHE") == before
