"""Two halves of a data set have all of its examples, and no class in common."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.halves import digits_first, digits_second
from data.files import Files
from data.sources import SOURCES


def test_halves_are_the_whole(tmp_path: Path) -> None:
    files = Files(root=tmp_path)
    whole, halves = SOURCES["digits"].read(files), [half.read(files) for half in (digits_first, digits_second)]
    for place in (0, 1):
        first, second = (half[place] for half in halves)
        assert len(first) + len(second) == len(whole[place])
        assert torch.equal(first.values, whole[place].values[whole[place].labels < 5])
        assert torch.equal(second.labels, whole[place].labels[whole[place].labels >= 5] - 5)
    assert digits_second.inspect(files).classes == 5
