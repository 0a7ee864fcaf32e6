"""Two halves of a data set have all of its examples, and no class in common; what is tuned on sees no test example."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.halves import Half, digits_first, digits_second
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


def test_every_other_class(tmp_path: Path) -> None:
    files = Files(root=tmp_path)
    whole, odd = SOURCES["digits"].read(files)[0], Half(whole="digits", second=True, in_turns=True)
    found = odd.read(files)[0]
    assert odd.inspect(files).classes == 5
    assert torch.equal(2 * found.labels + 1, whole.labels[whole.labels % 2 == 1])


def test_pictures_are_brought_to_a_side(tmp_path: Path) -> None:
    files = Files(root=tmp_path)
    small = Half(whole="digits", second=True, side=4)
    found, whole = small.read(files)[0].values, digits_second.read(files)[0].values
    assert found.shape[-2:] == small.inspect(files).input_shape[1:] == (4, 4)
    assert torch.equal(found[0, 0, 0, 0], whole[0, 0, :2, :2].float().mean().round().to(found.dtype))


def test_what_is_tuned_on_is_held_out_of_the_training_examples(tmp_path: Path) -> None:
    files = Files(root=tmp_path)
    train, _ = digits_second.read(files)
    others, held = replace(digits_second, tuning=True).read(files)
    assert len(others) + len(held) == len(train)
    assert 0.05 < len(held) / len(train) < 0.15
    rows = {row.numpy().tobytes() for row in train.values}
    assert {row.numpy().tobytes() for part in (others, held) for row in part.values} == rows
