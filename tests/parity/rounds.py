"""A round without a network connection: a strategy's own plans, weights and rows, folded into its own average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from models import NetworkSpec, Plan, Submodel, completed, initial_state, submodel, torch_generator
from models.algebra.average import norm_of
from models.algebra.token_rows import rows_of
from protocol import Hello
from strategies.exchange.assignment import Participant, TrainAssignment
from strategies.exchange.node import Node
from strategies.exchange.update import ClientUpdate
from strategies.flower_adapter import FlowerStrategy
from strategies.method import Values
from strategies.tiers.tier import Tier

CLASSES = 7
RESNET = completed(NetworkSpec("resnet", (3, 8, 8), CLASSES, widths=(6, 9, 10, 13)))
CNN = completed(NetworkSpec("cnn", (3, 8, 8), CLASSES, widths=(6, 9, 10, 13)))


def state_of(spec: NetworkSpec) -> dict[str, Tensor]:
    return initial_state(spec, torch_generator(5, 0, "server", "initial"))


def node(identity: int, examples: int = 10, labels: Sequence[int] = range(CLASSES), tokens: Sequence[int] = ()) -> Node:
    hello = Hello(node=identity, examples=examples, labels=tuple(labels), tokens=tuple(tokens))
    return Node(1000 + identity, hello)


class Planner:
    """Asks a method for one plan after the other, and hands on what it remembers.

    Args:
        strategy: the method.
        values: what it remembers to begin with; else what it does before a run.
    """

    def __init__(self, strategy: FlowerStrategy, values: Values | None = None) -> None:
        self.strategy = strategy
        self.values = strategy.initial_values() if values is None else values

    def plan(self, who: Node, tier: Tier, number: int) -> Plan:
        asked = [Participant(node=who, tier=tier, round_number=number)]
        (plan,), self.values = self.strategy.plan_round(self.strategy.context(number), self.values, asked)
        return plan


class Round:
    """One round of a strategy.

    Args:
        strategy: whose rules apply.
        number: the 1-based round.
    """

    def __init__(self, strategy: FlowerStrategy, number: int) -> None:
        self.strategy, self.number, self._planner = strategy, number, Planner(strategy)
        self.average = strategy.runner.main.average
        self.average.reset()

    def part(self, who: Node, tier: Tier) -> tuple[Plan, Submodel]:
        plan = self._planner.plan(who, tier, self.number)
        return plan, submodel(self.strategy.network, plan)

    def reply(
        self, who: Node, tier: Tier, plan: Plan, trained: Mapping[str, Tensor], state: Mapping[str, Tensor]
    ) -> None:
        """Fold a trained part, as the server does: its flat difference, by the strategy's weights and rows."""
        part = submodel(self.strategy.network, plan)
        start = part.gather(state)
        difference = torch.cat([(trained[name] - start[name]).flatten() for name in part])
        assignment = TrainAssignment(node=who, tier=tier.name, plan=plan, part=part, nonce="nonce")
        metrics = {"num-examples": float(who.hello.examples)}
        update = ClientUpdate(difference=difference, metrics=metrics, norm=norm_of(difference))
        numerator, denominator = self.strategy.weigh(self.strategy.context(self.number), assignment, update)
        tokens = self.strategy.token_rows(assignment)
        if tokens is not None:
            part, places = rows_of(part, self.strategy.runner.layout, tokens)
            difference = difference[places]
        self.average.add(part, difference, numerator, denominator, labels=self.strategy.rows(assignment))

    def finish(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.average.finish(state)


def noisy(part: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Local training, for want of data: every coordinate moves."""
    draws = torch.Generator().manual_seed(seed)
    return {name: tensor + 0.1 * torch.randn(tensor.shape, generator=draws) for name, tensor in part.items()}
