"""More than a thousand clients, each with a draw of its own: indices hold, memory does not grow."""

from __future__ import annotations

import gc
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from models import (
    Layout,
    NetworkSpec,
    PartialAverage,
    Plan,
    Submodel,
    completed,
    generator,
    initial_state,
    kept_units,
    layout,
    torch_generator,
)
from models.algebra.plans import submodel
from tests.models.generators import Client, assert_near, fold, per_coordinate, plain_sums

CLIENTS = 1300
SPEC = completed(NetworkSpec("mlp", (1, 3, 3), 4, widths=(24, 16), norm="none"))


def _drawn(spec: NetworkSpec, draws: np.random.Generator, rate: Fraction) -> Plan:
    axes = [axis for axis in layout(spec).axes.values() if axis.name.startswith("hidden")]
    units = [(a.name, tuple(draws.choice(a.size, kept_units(a.size, rate), replace=False).tolist())) for a in axes]
    return Plan(rate, units=tuple(units))


def _replies() -> list[Client]:
    declared, replies = layout(SPEC), []
    for node in range(7, 7 + 3 * CLIENTS, 3):  # ids are not 0 to N-1
        draws = generator(1, 1, node, "units")
        plan = _drawn(SPEC, draws, Fraction(1, 1 + node % 4))
        difference = torch.from_numpy(draws.standard_normal(submodel(declared, plan).numel, dtype=np.float32))
        labels = tuple(sorted(set(draws.integers(0, 4, 2).tolist())))
        replies.append(
            Client(
                plan=plan, difference=difference, numerator=1.0 + node % 5, denominator=1.0 + node % 5, labels=labels
            )
        )
    return replies


def test_per_client_draws_are_the_plain_loop() -> None:
    declared, replies = layout(SPEC), _replies()
    previous = initial_state(SPEC, torch_generator(0, 0, "server", "initial"))
    average = fold(PartialAverage(declared), declared, replies)
    numerators, denominators, holders = plain_sums(declared, replies)
    assert average.added == CLIENTS
    assert max(float(counts.max()) for counts in holders.values()) > 500
    for name, counts in per_coordinate(average, declared).items():
        assert torch.equal(counts.double(), holders[name])
    for name, tensor in average.finish(previous).items():
        expected = previous[name] + numerators[name] / denominators[name]
        assert_near(tensor, expected.float())


def _tensor_bytes() -> int:
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if type(thing) is Tensor]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


@pytest.mark.parametrize("kind", ["tiers", "draws", "rolling"])
def test_memory_does_not_grow_with_the_clients(kind: str) -> None:
    spec = completed(NetworkSpec("mlp", (1, 8, 8), 10, widths=(160, 160)))
    declared: Layout = layout(spec)
    average, draws = PartialAverage(declared), generator(0, 0, "server", "test")
    state, parts = declared.parameters * 4, dict[Plan, Submodel]()

    def take(number: int) -> None:
        rate = Fraction(1, 2 ** (number % 5))
        plan = Plan(rate, shift=number if kind == "rolling" else 0)
        if kind == "draws":
            plan = _drawn(spec, draws, rate)
        part = parts.setdefault(plan, submodel(declared, plan)) if kind == "tiers" else submodel(declared, plan)
        average.add(part, torch.zeros(part.numel))

    before = _tensor_bytes()
    for number in range(100):
        take(number)
    after_some, objects = _tensor_bytes(), len(gc.get_objects())
    for number in range(100, 500):
        take(number)
    assert _tensor_bytes() <= after_some + state / 10
    assert len(gc.get_objects()) <= objects + 1000
    assert after_some - before <= 3 * state
