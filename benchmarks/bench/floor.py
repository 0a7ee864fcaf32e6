"""The arithmetic floor: the same optimiser steps in a bare loop, over processes of one thread.

No Flower, and nothing of ours but the network and the setting of the C library that the clients have as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from benchmarks.bench.workers import Share
from models.networks.build import build
from models.networks.spec import NetworkSpec

_POOL = 64  # clients' data that a worker holds; more than fit a cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """The work of a round.

    Attributes:
        network: as a JSON of its spec, to be handed to processes.
        clients: a round.
        examples: of a client.
        batch_size: examples a step.
        learning_rate: of plain SGD.
    """

    network: str
    clients: int
    examples: int
    batch_size: int
    learning_rate: float = 0.1


class BareClient:
    """Trains one network on the data of client after client.

    Args:
        steps: the work.
        seed: of weights and data.
    """

    def __init__(self, steps: Steps, seed: int = 0) -> None:
        torch.manual_seed(seed)
        spec = NetworkSpec.from_json(steps.network)
        self._network, self._batch = build(spec), steps.batch_size
        self._optimiser = torch.optim.SGD(self._network.parameters(), lr=steps.learning_rate)
        self._data = [
            (torch.randn(steps.examples, *spec.input_shape), torch.randint(spec.classes, (steps.examples,)))
            for _ in range(_POOL)
        ]

    def train(self, client: int) -> None:
        """An epoch."""
        inputs, labels = self._data[client % _POOL]
        for index in torch.randperm(len(labels)).split(self._batch):  # type: ignore[no-untyped-call]
            self._optimiser.zero_grad()
            loss = F.cross_entropy(self._network(inputs[index]), labels[index])
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimiser.step()


def bare_loop(share: Share, steps: Steps) -> None:
    """What a process does: the target of `workers`."""
    client = BareClient(steps, share.number)
    for _ in share.rounds():
        for number in share.clients(steps.clients):
            client.train(number)
