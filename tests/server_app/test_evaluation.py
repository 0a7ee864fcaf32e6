"""Scores of all tiers of a method: in as few passes as are enough, each number what a pass of its own gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data import Split
from models import NetworkSpec, Plan, layout
from models.adversary import Attack
from models.algebra.submodel import Submodel
from models.evaluation import BATCH, Scores
from models.networks.build import build_part
from models.randomness import torch_generator
from models.statistics import channels_of_part, collect
from server_app.evaluation import Evaluator
from server_app.tier_records import kept_plans
from strategies import FlowerStrategy
from tests.support import OF_ALL, configured

Parts = Mapping[Plan, tuple[Submodel, Tensor | None]]
COUNT = BATCH + 30
DEEP: dict[str, Any] = {"widths": "8, 8, 8, 8", "tiers": "a:1@4, b:1@3, c:1@1"}
# Stages that are run of each batch: in a pass each, and together.
STAGES: list[tuple[dict[str, Any], int, int]] = [
    ({"method": "depthfl"}, 4 + 3 + 1, 4),
    ({"method": "depthfl", "norm": "group"}, 8, 4),
    ({"method": "depthfl", "norm": "static-batch"}, 8, 8),
    # The last stage is a size's own: those before it are run once, and the smallest size has nothing else.
    ({"method": "inclusivefl"}, 8, 4 + 1 + 1),
    ({"method": "inclusivefl", "inclusivefl_private_last_layer": False}, 8, 4),
    ({"method": "scalefl", "norm": "group"}, 8, 4),
    ({"method": "scalefl", "norm": "group", "tiers": "a:1@4, b:1/2@3, c:1/2@1"}, 8, 4 + 3),
    ({"method": "depthfl-exclusive"}, 4, 4),
    ({"method": "nefl", "tiers": "a:1, b:1/2, c:1/4"}, 12, 12),
    ({"method": "heterofl", "norm": "none", "tiers": "a:1, b:1/2, c:1/4"}, 12, 12),
]


def parts_of(keys: dict[str, Any]) -> tuple[NetworkSpec, dict[str, Tensor], Parts]:
    """A method's network, a state that is not its first, and what its tiers keep, with statistics of their own."""
    strategy: FlowerStrategy = configured(**keys).strategy()
    spec, draws = strategy.network, torch_generator(0, 0, "server", "a test's state")
    tensors = layout(spec).tensors
    state = {name: torch.randn(one.shape, generator=draws) / 2 for name, one in tensors.items()}
    state = {name: one.abs() + 0.5 if tensors[name].buffer else one for name, one in state.items()}
    context = strategy.context(1)
    wanted: dict[Plan, tuple[Submodel, Tensor | None]] = {}
    for plan in kept_plans(strategy, context).values():
        part, moments = strategy.part(context, plan, state), None
        if channels_of_part(spec, plan):
            network = build_part(spec, plan)
            network.load_state_dict(part.gather(state))
            moments = collect(network, [torch.randn(16, *spec.input_shape, generator=draws)])
        wanted[plan] = part, moments
    return spec, state, wanted


def evaluator_of(spec: NetworkSpec, **more: Any) -> Evaluator:
    draws = torch_generator(0, 0, "server", "a test's inputs")
    inputs = torch.randn(COUNT, *spec.input_shape, generator=draws)
    test = Split(inputs, torch.randint(spec.classes, (COUNT,), generator=draws))
    return Evaluator(spec, test, torch.device("cpu"), **more)


def one_by_one(evaluator: Evaluator, state: dict[str, Tensor], wanted: Parts) -> dict[Plan, Scores | None]:
    return {plan: evaluator.score(state, plan, *wanted[plan]) for plan in wanted}


@contextmanager
def counted() -> Iterator[list[nn.Module]]:
    """Rectifiers that are run meanwhile: an `mlp` has one in every stage, and none else."""
    run = list[nn.Module]()

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        del inputs, output
        run.extend([module] if isinstance(module, nn.ReLU) else [])

    with torch.nn.modules.module.register_module_forward_hook(note):
        yield run


@pytest.mark.parametrize("method", OF_ALL)
@pytest.mark.parametrize("norm", ["", "group"])
def test_scores_of_every_method_are_those_of_a_pass_each(method: str, norm: str) -> None:
    keys = {"method": method, "model": "cnn", "widths": "4, 8, 8, 8"} | ({"norm": norm} if norm else {})
    spec, state, wanted = parts_of(keys)
    together = evaluator_of(spec).scores(state, wanted)
    assert together == one_by_one(evaluator_of(spec), state, wanted)
    assert list(together) == list(wanted)
    assert all(scores is not None and 0 <= scores.own.accuracy <= 1 for scores in together.values())


@pytest.mark.parametrize(("keys", "apart", "together"), STAGES, ids=str)
def test_stages_that_are_the_same_are_run_once(keys: dict[str, Any], apart: int, together: int) -> None:
    spec, state, wanted = parts_of(DEEP | keys)
    evaluator, batches = evaluator_of(spec), 2
    expected = one_by_one(evaluator, state, wanted)  # what parts cost is found by running them, too, the first time
    with counted() as run:
        assert evaluator.scores(state, wanted) == expected
    assert len(run) == together * batches
    with counted() as run:
        assert one_by_one(evaluator, state, wanted) == expected
    assert len(run) == apart * batches


def test_mean_of_exits_attacks_and_what_else_is_measured() -> None:
    spec, state, wanted = parts_of(DEEP | {"method": "depthfl"})
    edge = torch.ones(spec.input_shape[0], 1, 1)

    def attack() -> Attack:
        draws = torch_generator(0, 0, "server", "a test's attack")
        return Attack(epsilon=0.2, steps=2, low=-3 * edge, high=3 * edge, draws=draws)

    def measure(outputs: Tensor, labels: Tensor) -> dict[str, Any]:
        assert len(outputs) == len(labels) == COUNT
        return {"sum": float(outputs.double().sum())}

    evaluator = evaluator_of(spec, attack=attack, attacked=torch.arange(7), measure=measure)
    found = evaluator.scores(state, wanted)
    assert found == one_by_one(evaluator, state, wanted)
    largest, *smaller = [scores for scores in found.values() if scores is not None]
    assert [len(scores.each) for scores in (largest, *smaller)] == [4, 3, 0]
    assert len({scores.more["sum"] for scores in (largest, *smaller)}) == 3
    assert None not in {scores.robust for scores in (largest, *smaller)}
    assert largest.ensemble != smaller[0].ensemble != None  # noqa: E711


def test_a_part_without_statistics_has_no_score_and_the_others_have() -> None:
    spec, state, wanted = parts_of(DEEP | {"method": "depthfl", "norm": "static-batch"})
    first, *others = wanted
    without = {**wanted, first: (wanted[first][0], None)}
    found = evaluator_of(spec).scores(state, without)
    assert found[first] is None
    assert {plan: found[plan] for plan in others} == one_by_one(
        evaluator_of(spec), state, {plan: wanted[plan] for plan in others}
    )
