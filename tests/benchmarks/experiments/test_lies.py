"""The lies that the table of docs/lies.md is about: each changes what it says it does, and costs little."""

from __future__ import annotations

import pytest

from benchmarks.experiments.lies import ALLOWED, CASES, COMMON_LIES, Found, as_table, measure


@pytest.mark.slow
def test_a_lie_costs_little() -> None:
    """One case in full; the table has them all."""
    said: list[str] = []
    found = measure(["fednova"], said.append, rounds=5)
    assert len(found) == len(said) == len(COMMON_LIES) + len(CASES["fednova"][1])
    assert all(one.honest > 0.6 for one in found)
    assert all(one.cost < 3 * ALLOWED for one in found)  # fewer rounds than the table has


def test_a_table_names_what_costs_too_much() -> None:
    found = [Found(case="a", lie=lie.name, accuracy=0.9, honest=0.92) for lie in COMMON_LIES]
    found.append(Found(case="a", lie="own", accuracy=0.5, honest=0.92))
    head, _, line = as_table(found).splitlines()
    assert line == "| a | 92.0 | " + " | ".join(["90.0"] * len(COMMON_LIES)) + " | own **50.0** |"
    assert head.count("|") == line.count("|")
