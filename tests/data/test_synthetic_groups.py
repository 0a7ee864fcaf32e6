"""Planted groups: who is in which, and what becomes of its examples."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from data import DataSettings, inspect, node_data
from data.synthetic_groups import check, group_of
from models.errors import SettingError


@pytest.mark.parametrize(("planted", "groups"), [("rotations:2", 2), ("rotations:4", 4)])
def test_rotations_turn_train_and_test_alike(planted: str, groups: int) -> None:
    for number in range(6):
        plain, turned = node_data(DataSettings(), number), node_data(DataSettings(synthetic_groups=planted), number)
        for before, after in ((plain.train, turned.train), (plain.test, turned.test)):
            expected = torch.rot90(before.inputs, (number % groups) * (4 // groups), dims=(2, 3))
            assert torch.equal(after.inputs, expected)
            assert after.inputs.is_contiguous()
            assert torch.equal(after.labels, before.labels)


def test_permuted_labels_differ_everywhere_between_groups_and_nowhere_within() -> None:
    settings = DataSettings(synthetic_groups="label-permutations:3", num_clients=7)
    maps = []
    for number in range(7):
        plain, permuted = node_data(DataSettings(num_clients=7), number), node_data(settings, number)
        pairs = torch.stack([plain.train.labels, permuted.train.labels], 1).unique(dim=0)  # type: ignore[no-untyped-call]
        tested = torch.stack([plain.test.labels, permuted.test.labels], 1).unique(dim=0)  # type: ignore[no-untyped-call]
        assert {tuple(pair) for pair in tested.tolist()} <= {tuple(pair) for pair in pairs.tolist()}
        mapping = dict(pairs.tolist())
        assert sorted(mapping) == sorted(mapping.values()) == list(range(10))
        assert permuted.labels == tuple(sorted(set(permuted.train.labels.tolist())))
        assert torch.equal(plain.train.inputs, permuted.train.inputs)
        maps.append(mapping)
    for a in range(7):
        assert group_of(settings.synthetic_groups, a) == a % 3
        for b in range(7):
            agree = sum(maps[a][label] == maps[b][label] for label in range(10))
            assert agree == (10 if a % 3 == b % 3 else 0)
    assert maps[0] == {label: label for label in range(10)}


def test_label_noise_is_half_of_the_last_group_s_training_labels() -> None:
    settings = DataSettings(synthetic_groups="label-noise:3", num_clients=6)
    for number in range(6):
        plain, planted = node_data(replace(settings, synthetic_groups=""), number), node_data(settings, number)
        assert torch.equal(plain.train.inputs, planted.train.inputs)
        assert torch.equal(plain.test.labels, planted.test.labels)
        changed = (plain.train.labels != planted.train.labels).float().mean().item()
        # Half are drawn, a tenth of these come out as they were.
        assert abs(changed - 0.45) < 0.12 if number % 3 == 2 else changed == 0


def test_nothing_planted_is_one_group() -> None:
    assert {group_of("", number) for number in range(5)} == {0}


@pytest.mark.parametrize(
    "planted", ["rotations", "rotations:3", "rotations:1", "label-permutations:1", "noise:2", "rotations:x", ":", "2"]
)
def test_what_cannot_be_planted_is_refused_at_the_door(planted: str) -> None:
    with pytest.raises(SettingError, match=r"^synthetic-groups = .*: allowed is .*rotations:2"):
        DataSettings(synthetic_groups=planted)


def test_data_that_cannot_be_planted() -> None:
    with pytest.raises(SettingError, match="square images"):
        check("rotations:4", 6, (9, 1, 128))
    with pytest.raises(SettingError, match="at most 10 groups"):
        inspect(DataSettings(synthetic_groups="label-permutations:11"))
    check("label-permutations:10", 10, (9, 1, 128))
