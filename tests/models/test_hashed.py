"""Hashes that are known: those of equal records are equal, and a changed copy has its own."""

from __future__ import annotations

import copy
from dataclasses import replace
from fractions import Fraction

import pytest

from models.algebra.plans import Plan
from models.networks.spec import NetworkSpec

PLAN = Plan(Fraction(1, 2), units=(("a", (1, 2)),))
NETWORK = NetworkSpec("mlp", (1, 8, 8), 10, widths=(4, 3))


@pytest.mark.parametrize("record", [PLAN, NETWORK], ids=["plan", "network"])
def test_hashes_of_records(record: Plan | NetworkSpec) -> None:
    known = hash(record)
    for same in (copy.copy(record), copy.deepcopy(record), replace(record)):
        assert same == record
        assert hash(same) == known
    assert {record: 1}[replace(record)] == 1


def test_a_changed_copy_has_its_own() -> None:
    assert hash(PLAN) != hash(replace(PLAN, shift=1))
    assert hash(NETWORK) != hash(replace(NETWORK, classes=9))
