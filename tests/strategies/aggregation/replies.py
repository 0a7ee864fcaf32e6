"""Random rounds of replies over a layout, and what a rule makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from models import Layout, PartialAverage, Plan
from models.algebra.average import norm_of
from models.algebra.plans import submodel
from protocol import Optimiser
from strategies.aggregation import (
    Aggregation,
    Update,
)
from tests.models.generators import Client, parts_of, plans

RATES = st.sampled_from((0.01, 0.1, 0.8))

PLAIN = Optimiser(0.1)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a client sends, and what it weighs by the method."""

    plan: Plan
    difference: Tensor
    loss: float = 1.0
    steps: int = 1
    weight: float = 1.0
    labels: tuple[int, ...] | None = None


@st.composite
def rounds(draw: st.DrawFn, layout: Layout) -> list[Reply]:
    """Replies of a round; some share a plan, some a classifier row."""
    choice = draw(st.lists(plans(layout), min_size=1, max_size=3))
    classes = layout.axes["classes"].size
    replies = []
    for _ in range(draw(st.integers(1, 6))):
        plan = draw(st.sampled_from(choice))
        draws = torch.Generator().manual_seed(draw(st.integers(0, 999)))
        replies.append(
            Reply(
                plan=plan,
                difference=0.1 * torch.randn(submodel(layout, plan).numel, generator=draws),
                loss=draw(st.floats(0.01, 10)),
                steps=draw(st.integers(1, 50)),
                weight=draw(st.sampled_from((1.0, 7.0, 0.5))),
                labels=draw(st.none() | st.lists(st.integers(0, classes - 1), unique=True).map(tuple)),
            )
        )
    return replies


def update_of(reply: Reply, optimiser: Optimiser) -> Update:
    metrics = {"num-examples": 10 * reply.weight, "loss-before": reply.loss, "steps": float(reply.steps)}
    return Update(node=0, weight=reply.weight, metrics=metrics, optimiser=optimiser)


def averaged(
    rule: Aggregation,
    layout: Layout,
    previous: dict[str, Tensor],
    replies: Sequence[Reply],
    optimiser: Optimiser = PLAIN,
) -> dict[str, Tensor]:
    """One round, as the server does it."""
    average = PartialAverage(layout)
    parts = parts_of(layout, [Client(plan=reply.plan, difference=reply.difference) for reply in replies])
    for reply in replies:
        norm = norm_of(reply.difference)
        a, b = rule.weigh(update_of(reply, optimiser), norm)
        average.add(parts[reply.plan], reply.difference, a, b, reply.labels, norm=norm)
    return average.finish(previous, scale=rule.scale([update_of(reply, optimiser) for reply in replies]))
