"""Synthetic groups: clients whose data really come from different distributions, to see whether clusters find them.

An experiment aid, never part of a benchmark that means to be realistic. Partition p is in group p mod n. All examples
of a client, its own test part as well, are changed alike; the server's test set is not, so it is group 0's.

- "rotations:n" (n = 2 or 4): group g's images are turned by g · 360/n degrees (rotated MNIST of IFCA, NeurIPS 2020).
- "label-permutations:n": group g's labels move g places along one random order of all classes, so that any two groups
  disagree on every class (permuted labels of CFL, Sattler et al. 2020, §VI).
- "label-noise:n": half of the training labels of the last group are drawn anew, uniformly; its own test part and all
  other groups are left alone.
"""

from __future__ import annotations

import torch

from data.examples import Split
from models.errors import SettingError
from models.randomness import generator

KINDS = ("rotations", "label-permutations", "label-noise")
NOISE = 0.5
ALLOWED = '"", "rotations:2", "rotations:4", or "label-permutations:n" or "label-noise:n" with n of 2 or more'


def parse(text: str) -> tuple[str, int]:
    """Read kind and number of groups; "" is one group that is left alone.

    Raises:
        SettingError: another kind, or a number of groups that it does not have.
    """
    if not text:
        return "", 1
    kind, _, count = text.partition(":")
    groups = int(count) if count.isdecimal() and len(count) < 7 else 0
    if kind not in KINDS or groups < 2 or (kind == "rotations" and groups not in (2, 4)):
        raise SettingError("synthetic-groups", text, ALLOWED)
    return kind, groups


def group_of(text: str, partition_id: int) -> int:
    """Which group a partition is in, from 0."""
    return partition_id % parse(text)[1]


def check(text: str, classes: int, shape: tuple[int, ...]) -> None:
    """Refuse groups that a data set cannot have.

    Args:
        text: the setting.
        classes: number of classes.
        shape: of one input.

    Raises:
        SettingError: rotations of what is no square image, or more permutations than classes.
    """
    kind, groups = parse(text)
    if kind == "rotations" and (len(shape) != 3 or shape[1] != shape[2]):
        raise SettingError("synthetic-groups", text, f"rotations of square images only; an input is {shape} here")
    if kind == "label-permutations" and groups > classes:
        raise SettingError("synthetic-groups", text, f"at most {classes} groups, as many as there are classes")


def regroup(text: str, split: Split, partition_id: int, classes: int, seed: int, *, tested: bool = False) -> Split:
    """Change a client's examples as its group wants.

    Args:
        text: the setting.
        split: the client's examples.
        partition_id: which client.
        classes: number of classes.
        seed: seed of the run, which permutations and noise are drawn from.
        tested: whether these are examples that the client is tested on.
    """
    kind, groups = parse(text)
    group = partition_id % groups
    if kind == "label-noise":
        return split if tested or group < groups - 1 else _noisy(split, classes, seed, partition_id)
    if not group:
        return split
    if kind == "rotations":
        return Split(torch.rot90(split.inputs, group * 4 // groups, dims=(2, 3)).contiguous(), split.labels)
    order = torch.from_numpy(generator(seed, 0, "server", "planted labels").permutation(classes))
    moved = torch.empty(classes, dtype=torch.int64)
    moved[order] = order.roll(-group)
    return Split(split.held, moved[split.labels])


def _noisy(split: Split, classes: int, seed: int, partition_id: int) -> Split:
    draws = generator(seed, 0, partition_id, "label noise")
    wrong = torch.from_numpy(draws.random(len(split)) < NOISE)
    drawn = torch.from_numpy(draws.integers(classes, size=len(split)))
    return Split(split.held, torch.where(wrong, drawn, split.labels))
