"""When other people's networks count as trained: every tier better than guessing, every part what was said."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import pytest

from benchmarks.experiments.foreign import CLASSES, TEST, TIERS, Tier, bound, cells, verdict

GOOD = Tier(accuracy=0.2, parameters=100, macs=50, sent=404, held=100, computed=50, promised=400)
RUN = dict.fromkeys(TIERS, GOOD)


def test_guessing_is_no_learning() -> None:
    assert bound() == pytest.approx(0.1 + 3 * sqrt(0.1 * 0.9 / TEST))
    assert (TEST, CLASSES) == (2000, 10)
    passed, said = verdict([RUN, RUN])
    assert passed
    assert "10 of 10 tiers are above 12.0 %" in said
    passed, said = verdict([RUN, RUN | {"e": replace(GOOD, accuracy=0.119)}])
    assert not passed
    assert "9 of 10 tiers are above" in said
    assert "the least is 11.9 %" in said


@pytest.mark.parametrize("wrong", [{"sent": 405}, {"sent": 399}, {"computed": 51}, {"held": 101}])
def test_parts_that_are_not_what_was_said(wrong: dict[str, int]) -> None:
    passed, said = verdict([RUN | {"c": replace(GOOD, **wrong)}])
    assert not passed
    assert "4 of 5 hold, compute and send what was said" in said


def test_a_line_of_the_table() -> None:
    line = cells("net", "fedrolex", RUN | {"e": replace(GOOD, parameters=25)}, 61.2)
    assert line[:3] == ["net", "fedrolex", "20.0 %, 100.0 %, 0.00 M, 0.000"]
    assert line[-2:] == ["20.0 %, 25.0 %, 0.00 M, 0.000", "61"]
