"""What selectors are told: gradients that differences stand for, and what a node will get through in a round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from models.algebra.plans import Plan
from models.errors import SettingError
from models.networks.build import layout, submodel
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from protocol import NodeId, Optimiser, Work
from strategies import Method, Schedule, Settings
from strategies.aggregation import Aggregation, ByMethod, QFedSGD
from strategies.context import RoundContext
from strategies.exchange.assignment import TrainAssignment, effective_steps
from strategies.exchange.report import RoundReport
from strategies.exchange.stateful import RoundOutcome
from strategies.exchange.update import AcceptedUpdate, ClientUpdate
from strategies.round.selection import SelectionRunner
from strategies.selection import Candidates, Probe, Selection, Selector
from strategies.selection.divfl import DivFL
from strategies.tiers.tier import Tier
from tests.parity.rounds import node as node_of

SPEC = completed(NetworkSpec("mlp", (1, 4, 4), 5, widths=(12, 8), norm="none"))
WIDE, NARROW = Tier("a", Fraction(1)), Tier("b", Fraction(1, 2))
NOBODY: Any = None  # nothing here is asked or sent


@dataclass(frozen=True)
class Looker(Selector):
    """Chooses everybody, and remembers what it was told."""

    seen: list[Candidates] = field(default_factory=list)

    def select(self, candidates: Candidates, count: int, draws: np.random.Generator, probe: Probe) -> Selection:
        self.seen.append(candidates)
        return candidates.selection(np.arange(count))


def settings_of(selector: Selector, **more: Any) -> Settings:
    return replace(Settings(tiers=(WIDE, NARROW), nodes=2, selector=selector), **more)


def choose(chooser: SelectionRunner, tiers: Mapping[int, Tier], round_number: int) -> None:
    nodes = [node_of(i, examples=500) for i in sorted(tiers)]
    known: dict[NodeId, Tier] = {node.id: tiers[i] for i, node in zip(sorted(tiers), nodes, strict=True)}
    context = RoundContext(round_number=round_number, settings=Settings(), network=SPEC, layout=layout(SPEC))
    report = RoundReport(number=round_number)
    chooser.choose(
        NOBODY, context, method=Method({}), states=NOBODY, nodes=nodes, tiers=known, patience=NOBODY, report=report
    )


@dataclass(frozen=True)
class Giver(Selector):
    """Gives whatever it was told to."""

    gives: Any

    def select(self, candidates: Candidates, count: int, draws: np.random.Generator, probe: Probe) -> Selection:
        given: Selection = self.gives(candidates)
        return given


@pytest.mark.parametrize(
    ("gives", "allowed"),
    [
        (lambda c: [c.nodes[0]], r"a Selection, as candidates.selection\(positions\) makes one, not a list"),
        (lambda c: None, r"a Selection, .*, not a NoneType"),
        (lambda c: c.selection([1, 0, -1]), "every node once; 1 is there again"),
        (lambda c: Selection((*c.nodes, "nobody")), "ids of candidates; 'nobody' is none"),
        (lambda c: c.selection([0, 1], [1.0]), "a weight for every node; there are 1 for 2"),
    ],
)
def test_what_a_selector_gives_are_candidates_each_once(gives: Any, allowed: str) -> None:
    chooser = SelectionRunner(settings_of(Giver(gives)), layout(SPEC))
    with pytest.raises(SettingError, match=f"^selection = 'Giver': allowed is a selector that gives {allowed}"):
        choose(chooser, {0: WIDE, 1: NARROW}, 1)


def sent_to(node: int, tier: Tier, optimiser: Optimiser | None = None) -> TrainAssignment:
    return TrainAssignment(
        node=node_of(node),
        tier=tier.name,
        plan=Plan(),
        part=submodel(SPEC, Plan()),
        nonce="n",
        optimiser=optimiser or Optimiser(0.1),
    )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_same_gradient_is_the_same_vector_whatever_the_rate_and_the_steps(momentum: float) -> None:
    """(w - w_k)/(ητ): a difference of five small steps in round 7 and one of two large steps in round 1."""
    schedule = Schedule(learning_rate=0.2, momentum=momentum, kind="exponential", decay=0.5)
    chooser = SelectionRunner(settings_of(DivFL(), schedule=schedule), layout(SPEC))
    part, vectors = submodel(SPEC, Plan()), []
    gradient = torch.randn(part.numel, generator=torch.Generator().manual_seed(1))
    for round_number, steps in ((1, 2), (7, 5)):
        choose(chooser, {0: WIDE, 1: WIDE}, round_number)
        optimiser = schedule.optimiser(round_number)
        difference = -optimiser.learning_rate * effective_steps(steps, momentum) * gradient
        update = ClientUpdate(difference=difference, metrics={"steps": float(steps)}, norm=float(difference.norm()))
        vectors.append(chooser.vector(sent_to(0, WIDE, optimiser), update))
    first, second = vectors
    assert first is not None
    assert second is not None
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)
    assert float(first @ first) == pytest.approx(float(gradient @ gradient), rel=0.5)


@pytest.mark.parametrize("metrics", [{}, {"steps": 0.0}, {"steps": -4.0}])
def test_a_reply_that_does_not_say_its_steps_leaves_no_vector(metrics: dict[str, float]) -> None:
    chooser = SelectionRunner(settings_of(DivFL()), layout(SPEC))
    choose(chooser, {0: WIDE, 1: WIDE}, 1)
    reply = ClientUpdate(difference=torch.ones(submodel(SPEC, Plan()).numel), metrics=metrics, norm=1.0)
    assert chooser.vector(sent_to(0, WIDE), reply) is None


def processed(trained: bool, tiers: Mapping[int, Tier], **more: Any) -> list[float]:
    """n_eff of two nodes of 500 examples, in the round after both trained 9 steps as wide ones, or before."""
    looker = Looker()
    chooser = SelectionRunner(settings_of(looker, work=Work(batch_size=10), **more), layout(SPEC))
    choose(chooser, {0: WIDE, 1: WIDE}, 1)
    if trained:
        accepted = [AcceptedUpdate(assignment=sent_to(i, WIDE), metrics={"steps": 9.0}) for i in (0, 1)]
        chooser.learn(RoundOutcome(report=RoundReport(number=1), accepted=accepted))
        choose(chooser, tiers, 2)
    return [float(number) for number in looker.seen[-1].processed]


def test_planned_steps_are_those_of_the_present_tier() -> None:
    tiers = {0: WIDE, 1: NARROW}
    assert processed(True, tiers, tier_steps=(9, 2)) == [90, 20]
    assert processed(False, tiers, tier_steps=(9, 2)) == [90, 90]
    assert processed(True, tiers) == [90, 90]  # epochs are what they were
    assert processed(False, tiers) == [500, 500]


@pytest.mark.parametrize(("rule", "expected"), [(ByMethod(), 10.0), (QFedSGD(), 500.0)])
def test_the_batch_is_the_one_that_the_aggregation_makes_of_it(rule: Aggregation, expected: float) -> None:
    """q-FedSGD's single step goes over all examples, whatever the batch size."""
    looker, plain = Looker(), Schedule(learning_rate=0.1, momentum=0.0, weight_decay=0.0, clip_norm=0.0)
    work = Work(batch_size=10, local_steps=1)
    chooser = SelectionRunner(settings_of(looker, work=work, aggregation=rule, schedule=plain), layout(SPEC))
    choose(chooser, {0: WIDE, 1: NARROW}, 1)
    assert looker.seen[-1].processed.tolist() == [expected] * 2
