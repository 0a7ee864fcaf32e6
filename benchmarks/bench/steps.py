"""A round's local training and nothing else: clients of several tiers, ours against a bare eager loop.

Both do the same optimiser steps on the same examples, in the same processes of one thread and in turns. The bare loop
is what one would write by hand: `torch.optim.SGD` over the tier's network, `clip_grad_norm_`, cross entropy. Ours is
what the ClientApp calls between reading a request and encoding its reply, of as many clients side by side as the local
engine hands to a process together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.bench.workers import Share, workers
from client_app.fused_training import Learner, train_fused
from client_app.model_cache import LocalModel
from client_app.side_by_side import most_of
from client_app.training import train
from data import Split, batches
from flotilla.local.groups import divided
from models.algebra.plans import Plan
from models.networks.build import build_part, initial_state, part_of
from models.networks.spec import NetworkSpec
from models.randomness import torch_generator
from protocol import Optimiser, Work
from protocol.memory_format import memory_format
from protocol.training_way import steps_in_layers, why_loop

EAGER, OURS = "eager", "ours"
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The work of a round.

    Attributes:
        network: as a JSON of its spec, to be handed to processes.
        rates: widths of the tiers; clients have them in turn.
        clients: how many.
        examples: of a client.
        work: epochs and batch size.
        optimiser: the rule.
        processes: that share it.
    """

    network: str
    rates: tuple[Fraction, ...]
    clients: int
    examples: int
    work: Work
    optimiser: Optimiser
    processes: int = 1


def in_turns(asked: Round, processes: int, turns: int) -> list[tuple[float, float]]:
    """Wall seconds of rounds of ours and of the bare loop, in turns."""
    with workers(_train, replace(asked, processes=processes), processes, ways=(EAGER, OURS)) as made:
        return [(made.round(OURS), made.round(EAGER)) for _ in range(turns)]


def _train(share: Share, asked: Round) -> None:
    tiers = [TierSteps(asked, rate) for rate in asked.rates]
    groups = _groups(asked, tiers)

    def examples(client: int) -> Split:
        return examples_of(tiers[0].spec, asked.examples, client)

    def draws(client: int) -> torch.Generator:
        return torch_generator(0, client, "bench", "batches")

    for way in share.rounds():
        if way == EAGER:
            for client in share.clients(asked.clients):
                tiers[client % len(tiers)].eager(examples(client), draws(client))
        else:
            for group in share.clients(len(groups)):
                together = [(examples(client), draws(client)) for client in groups[group]]
                tiers[groups[group][0] % len(tiers)].ours(together)


def _groups(asked: Round, tiers: Sequence[TierSteps]) -> list[Sequence[int]]:
    """Clients in groups, as the local engine hands them out."""
    found: list[Sequence[int]] = []
    for number, tier in enumerate(tiers):
        found += divided(range(number, asked.clients, len(tiers)), tier.most, asked.processes)
    return sorted(found, key=lambda members: members[0])


def examples_of(spec: NetworkSpec, count: int, client: int) -> Split:
    """Random examples of a client."""
    draws = torch_generator(1, client, "bench", "examples")
    inputs = torch.randn(count, *spec.input_shape, generator=draws)
    return Split(inputs, torch.randint(spec.classes, (count,), generator=draws))


class TierSteps:
    """One tier's network, in both ways.

    Args:
        asked: the work of a client.
        rate: of the tier.

    Attributes:
        module: what the bare loop trains.
        model: what the ClientApp trains.
        start: the state that both begin from, flat.
        most: clients that are trained side by side.
    """

    def __init__(self, asked: Round, rate: Fraction) -> None:
        self.spec, self._plan, self._asked = NetworkSpec.from_json(asked.network), Plan(rate), asked
        state = initial_state(self.spec, torch_generator(1, 0, "server", "initial state"))
        self._start = part_of(self.spec, self._plan, state).state_dict()
        self.module = build_part(self.spec, self._plan)
        self.model = LocalModel(self.spec, self._plan, _CPU)
        self.start = torch.cat([tensor.reshape(-1) for tensor in self._start.values()])
        self._loop = why_loop(self.spec, self._plan, asked.work, "cross-entropy", regularised=False)
        self.most = 1 if self._loop else most_of(self.spec, self._plan, asked.work.batch_size)

    def eager(self, examples: Split, draws: torch.Generator) -> None:
        """The bare loop."""
        rule, work = self._asked.optimiser, self._asked.work
        self.module.load_state_dict(self._start)
        self.module.train()
        sgd = torch.optim.SGD(
            self.module.parameters(), rule.learning_rate, rule.momentum, weight_decay=rule.weight_decay
        )
        for rows in batches(len(examples), work.batch_size, draws, work.local_epochs):
            sgd.zero_grad()
            loss: Tensor = F.cross_entropy(self.module(examples.inputs[rows]), examples.labels[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            if rule.clip_norm:
                nn.utils.clip_grad_norm_(self.module.parameters(), rule.clip_norm)
            sgd.step()

    def ours(self, clients: Sequence[tuple[Split, torch.Generator]]) -> None:
        """What the ClientApp does, by the way of training that it chooses, with examples and draws of each client."""
        if self._loop:
            for examples, draws in clients:
                self.model.flat.copy_(self.start)
                self._by_loop(examples, draws)
            return
        starts = self.start.expand(len(clients), -1)  # they all have the same part
        flats = torch.empty(starts.shape)
        learners = [Learner(examples=examples, draws=draws) for examples, draws in clients]
        train_fused(self.model.fused, starts, learners, self._asked.optimiser, self._asked.work, into=flats)
        self.model.flat.copy_(flats[-1])

    def _by_loop(self, examples: Split, draws: torch.Generator) -> None:
        work, module = self._asked.work, self.model.module

        def objective(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            logits = module(x)
            return F.cross_entropy(logits.float(), y), logits

        train(
            module,
            examples,
            objective,
            self._asked.optimiser,
            work,
            draws=draws,
            augmentation=None,
            memory_format=memory_format(self.spec, self._plan, work, _CPU),
            in_layers=steps_in_layers(
                self.spec, self._plan, work, "cross-entropy", self._asked.optimiser, regularised=False
            ),
        )
