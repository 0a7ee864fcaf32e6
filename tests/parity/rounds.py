"""A round without a network connection: a strategy's own plans, weights and rows, folded into its own average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from models import NetworkSpec, Plan, Submodel, completed, initial_state, submodel, torch_generator
from models.algebra.average import norm_of
from protocol import Hello
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.node import Node
from strategies.exchange.update import ClientUpdate
from strategies.round.runner import PartialStrategy
from strategies.tiers.tier import Tier

CLASSES = 7
RESNET = completed(NetworkSpec("resnet", (3, 8, 8), CLASSES, widths=(6, 9, 10, 13)))
CNN = completed(NetworkSpec("cnn", (3, 8, 8), CLASSES, widths=(6, 9, 10, 13)))


def state_of(spec: NetworkSpec) -> dict[str, Tensor]:
    return initial_state(spec, torch_generator(5, 0, "server", "initial"))


def node(identity: int, examples: int = 10, labels: Sequence[int] = range(CLASSES)) -> Node:
    return Node(1000 + identity, Hello(node=identity, examples=examples, labels=tuple(labels)))


class Round:
    """One round of a strategy.

    Args:
        strategy: whose rules apply.
        number: the 1-based round.
    """

    def __init__(self, strategy: PartialStrategy, number: int) -> None:
        self.strategy, self.number = strategy, number
        self.average = strategy.average
        self.average.reset()

    def part(self, who: Node, tier: Tier) -> tuple[Plan, Submodel]:
        plan = self.strategy.plan(who, tier, self.number)
        return plan, submodel(self.strategy.network, plan)

    def reply(
        self, who: Node, tier: Tier, plan: Plan, trained: Mapping[str, Tensor], state: Mapping[str, Tensor]
    ) -> None:
        """Fold a trained part, as the server does: its flat difference, by the strategy's weights and rows."""
        part = submodel(self.strategy.network, plan)
        start = part.gather(state)
        difference = torch.cat([(trained[name] - start[name]).flatten() for name in part])
        message: Any = None  # nothing here looks at it
        sent = TrainAssignment(
            node=who, tier=tier.name, plan=plan, part=part, nonce="nonce", message=message, bytes_down=0
        )
        metrics = {"num-examples": float(who.hello.examples)}
        accepted = ClientUpdate(difference=difference, metrics=metrics, bytes_up=0, norm=norm_of(difference))
        numerator, denominator = self.strategy.weigh(sent, accepted, self.number)
        self.average.add(part, difference, numerator, denominator, self.strategy.rows(sent))

    def finish(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.average.finish(state)


def noisy(part: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Local training, for want of data: every coordinate moves."""
    draws = torch.Generator().manual_seed(seed)
    return {name: tensor + 0.1 * torch.randn(tensor.shape, generator=draws) for name, tensor in part.items()}
