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


def bare_loop(share: Share, steps: Steps) -> None:
    """What a process does: the target of `workers`."""
    torch.manual_seed(share.number)
    spec = NetworkSpec.from_json(steps.network)
    network = build(spec)
    optimiser = torch.optim.SGD(network.parameters(), lr=steps.learning_rate)
    data = [
        (torch.randn(steps.examples, *spec.input_shape), torch.randint(spec.classes, (steps.examples,)))
        for _ in range(_POOL)
    ]
    for _ in share.rounds():
        for client in share.clients(steps.clients):
            inputs, labels = data[client % _POOL]
            for index in torch.randperm(steps.examples).split(steps.batch_size):  # type: ignore[no-untyped-call]
                optimiser.zero_grad()
                loss = F.cross_entropy(network(inputs[index]), labels[index])
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
