"""A real SuperNode with pictures of its own: memory follows their bytes, and each is decoded once."""

from __future__ import annotations

import pytest

from benchmarks.probes.board import MOST, board

SIDE = 64


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_memory_grows_by_what_is_stored_and_nothing_is_decoded_twice() -> None:
    """As floats the same pictures would be four times as much."""
    few, many = 200, 6000
    found = {count: board(count, SIDE, batch=8) for count in (few, many)}
    for count, seen in found.items():
        assert seen.decoded == count
        assert len(seen.processes) >= 4  # facts, hello, training, evaluation: a process each
    more = 3 * SIDE**2 * (many - few)
    assert found[many].own - found[few].own <= MOST * more
