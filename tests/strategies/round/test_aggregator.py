"""Who hears of a reply: nobody of one that the average refuses, everybody of one that was added."""

from __future__ import annotations

from math import nan
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from models.algebra.average import PartialAverage
from models.algebra.plans import Plan
from models.networks.build import layout, submodel
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from protocol import Hello
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.node import Node
from strategies.exchange.report import RoundReport
from strategies.exchange.update import ClientUpdate, Rejected
from strategies.round.aggregator import Listener, RoundAggregator

SPEC = completed(NetworkSpec("mlp", classes=3, input_shape=(1, 2, 2), widths=(4,)))
SHAPE, PART = layout(SPEC), submodel(SPEC, Plan())


def asked(node: int) -> TrainAssignment:
    whom = Node(1000 + node, Hello(node=node, examples=10))
    return TrainAssignment(node=whom, tier="a", plan=Plan(), part=PART, nonce=f"{node}")


def reply(value: float, rows: tuple[int, ...] | None = None) -> ClientUpdate:
    difference = torch.full((PART.numel,), value)
    norm = float(difference.norm())
    return ClientUpdate(metrics={"num-examples": 10.0}, difference=difference, norm=norm, rows=rows)


def of_three(average: PartialAverage, report: RoundReport, listen: Listener) -> RoundAggregator:
    """Of a round of three nodes, with somebody who hears of what is added."""
    states: Any = {0: SimpleNamespace(average=average)}
    return RoundAggregator(
        report=report,
        assignments=[asked(node) for node in range(3)],
        messages=(),
        bytes_down=(0, 0, 0),
        first_stages=(),
        stages=(),
        hear=lambda *_: True,
        states=states,
        listeners=[listen],
    )


@pytest.mark.parametrize("wrong", [reply(nan), reply(1e30), reply(1.0, rows=(3,)), Rejected("late: no reply")])
def test_of_a_reply_that_is_not_added_nobody_hears(wrong: ClientUpdate | Rejected) -> None:
    heard: list[int] = []
    average, report = PartialAverage(SHAPE), RoundReport(number=1)

    def note(assignment: TrainAssignment, update: ClientUpdate) -> None:
        heard.append(int(assignment.node.id))

    aggregator = of_three(average, report, note)
    for i, update in enumerate((reply(1.0), wrong, reply(2.0))):
        aggregator.take_read(i, update, missed=isinstance(update, Rejected))
    aggregator.release()
    assert heard == [0, 2]
    assert average.added == report.accepted == len(aggregator.accepted) == 2
    assert [one.node for one in report.rejected] == [1]
    assert [one.node.id for one in aggregator.missing] == [1]
    assert len(aggregator.missed) == isinstance(wrong, Rejected)


def test_a_reply_that_somebody_cannot_hear_is_not_added() -> None:
    average, report = PartialAverage(SHAPE), RoundReport(number=1)

    def fails(assignment: TrainAssignment, update: ClientUpdate) -> None:
        del update
        if assignment.node.id == 1:
            raise ValueError("no")

    aggregator = of_three(average, report, fails)
    for i in range(3):
        aggregator.take_read(i, reply(1.0), missed=False)
    assert average.added == report.accepted == len(aggregator.accepted) == 2
    assert [one.node for one in report.rejected] == [1]
