"""Some devices and the server's group of them, without training: what each sends is given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from flwr.app import Array, Context

from client_app.secure.masked import joined, masked
from client_app.secure.stages import answer_keys, answer_shares, answer_unmask
from models import NetworkSpec, Plan, completed, submodel
from models.algebra.submodel import Submodel
from models.randomness import generator
from protocol import Hello
from protocol.secure.fixed_point import Floats
from protocol.secure.messages import KeysRequest, UnmaskReply, UnmaskRequest
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.node import Node
from strategies.exchange.update import ClientUpdate
from strategies.secure.group import Group, Weights
from tests.support import context_of

SPEC = completed(NetworkSpec("mlp", (1, 4, 4), 3, widths=(5,)))
PART = submodel(SPEC, Plan())
CLIP = 2.0


def part_of(width: int) -> Submodel:
    """A whole network with two hidden layers of so many units."""
    return submodel(completed(NetworkSpec("mlp", (1, 4, 4), 3, widths=(width, width))), Plan())


def assigned(node: int, examples: int = 10, part: Submodel = PART) -> TrainAssignment:
    """What a node is asked to train."""
    hello = Hello(node=node, examples=examples)
    return TrainAssignment(node=Node(node, hello), tier="a", plan=Plan(), part=part, nonce=f"train {node}")


def vectors(count: int, seed: int = 1) -> list[Floats]:
    """Differences within the clip."""
    draws = generator(seed, 0, "server", "test")
    return [draws.uniform(-1, 1, PART.numel) for _ in range(count)]


class Devices:
    """So many devices that have said their keys and shared their secrets.

    Args:
        count: of devices.
        least: see `Group`.
        weights: by device.
        examples: by device.
        sharing: those that make shares; all.
        part: what they train.
    """

    def __init__(
        self,
        count: int,
        *,
        least: int = 2,
        weights: Sequence[Weights] | None = None,
        examples: Sequence[int] | None = None,
        sharing: Iterable[int] | None = None,
        part: Submodel = PART,
    ) -> None:
        self.contexts: list[Context] = [context_of(i) for i in range(count)]
        keys = [answer_keys(KeysRequest(nonce="n", session="s"), context) for context in self.contexts]
        members = [assigned(i, 10 if examples is None else examples[i], part) for i in range(count)]
        self.group = Group("s", members, keys, least=least, weights=weights or [(1.0, 1.0)] * count)
        for i in range(count) if sharing is None else sharing:
            self.share(i)

    def share(self, i: int) -> None:
        """Let a device share its secrets."""
        self.group.take_shares(i, answer_shares(self.group.shares_request(i, "n"), self.contexts[i]))

    def masked(self, i: int, vector: Floats, loss: float = 0.0, accuracy: float = 0.0) -> Array:
        """What a device sends."""
        told = self.group.told(i, CLIP)
        session = joined(told, self.contexts[i])
        return masked(
            told,
            session,
            self.contexts[i],
            torch.from_numpy(vector.astype(np.float32)),
            numbers={"loss": loss, "accuracy": accuracy},
            draws=generator(1, 1, i, "codec"),
        )

    def send(self, i: int, vector: Floats, loss: float = 0.0, accuracy: float = 0.0) -> None:
        """Let it arrive."""
        self.group.take(i, ClientUpdate(metrics={}, array=self.masked(i, vector, loss, accuracy)))

    def opened(self, i: int) -> UnmaskReply:
        """A device's shares."""
        request = UnmaskRequest(nonce="n", session="s", survivors=tuple(self.group.survivors))
        reply = answer_unmask(request, self.contexts[i])
        self.group.check_opened(i, reply)
        return reply

    def open(self, whose: Iterable[int]) -> tuple[Floats, dict[str, float]]:
        """The sum, by the shares of these devices."""
        summed, numbers, wrong = self.group.open({i: self.opened(i) for i in whose}, CLIP)
        assert wrong is None
        return summed, dict(numbers)
