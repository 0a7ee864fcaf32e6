"""A real SuperNode with pictures of its own: memory follows their bytes, and each is decoded once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.probes.board import MOST
from data.stored import READY_AT_ONCE

SIDE = 64
# A process of its own: flwr uses what pathspec calls deprecated, and warnings are errors here.
_RUN = """
import dataclasses, json, sys
from benchmarks.probes.board import board
seen = dataclasses.asdict(board(int(sys.argv[1]), int(sys.argv[2]), batch=8))
print(json.dumps(seen | {"processes": len(seen["processes"])}))
"""


def _seen(count: int) -> dict[str, Any]:
    command = [sys.executable, "-c", _RUN, str(count), str(SIDE)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_memory_grows_by_what_is_stored_and_nothing_is_decoded_twice() -> None:
    """As floats the same pictures would be four times as much.

    Few test examples (here a tenth, 29 MB as floats) are made ready at once, within a bound.
    """
    few, many = 200, 6000
    found = {count: _seen(count) for count in (few, many)}
    for count, seen in found.items():
        assert seen["decoded"] == count
        assert seen["processes"] >= 4  # facts, hello, training, evaluation: a process each
    more, grown = 3 * SIDE**2 * (many - few), found[many]["own"] - found[few]["own"]
    print(f"{grown / 1e6:.0f} MB for {more / 1e6:.0f} MB of pictures")
    assert 0.5 * more < grown <= MOST * more + READY_AT_ONCE
