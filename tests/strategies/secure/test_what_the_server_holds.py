"""What can be reached from the server's objects is never one device's plain difference."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from functools import partial
from types import FunctionType, ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from flwr.app import Message
from numpy.typing import NDArray

from protocol.secure.fixed_point import quantised
from strategies.round.aggregator import RoundAggregator
from strategies.round.secure_sums import SecureSums
from tests.strategies.secure.keys import ON, unmasked
from tests.support import Player, trains


def held_by(*roots: object, beside: tuple[object, ...]) -> Iterator[bytes]:
    """Every vector and text of bytes that can be reached from some objects, but not through others."""
    seen, waiting = {id(one) for one in beside}, list(roots)
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type | ModuleType | FunctionType | str | int | float):
            continue
        seen.add(id(one))
        if isinstance(one, np.ndarray):
            yield one.tobytes()
        elif isinstance(one, torch.Tensor):
            yield one.detach().numpy().tobytes()
        elif isinstance(one, bytes | bytearray):
            yield bytes(one)
        waiting += gc.get_referents(one)
        if isinstance(one, partial):
            waiting += [one.func, *one.args]


class Looking:
    """Compares what the server holds with what devices quantised, whenever a reply has been taken and at the end."""

    def __init__(self) -> None:
        self.plain: list[bytes] = []
        self.found = self.looked = 0

    def quantised(self, *arguments: Any, **named: Any) -> NDArray[np.uint32]:
        levels = quantised(*arguments, **named)
        self.plain.append(levels.tobytes())
        return levels

    def look(self, *roots: object, beside: tuple[object, ...]) -> None:
        self.looked += 1
        for data in held_by(*roots, beside=(self, *beside)):
            self.found += sum(data.find(plain) >= 0 for plain in self.plain)

    def played(self, play: Player) -> Looking:
        take, opened = RoundAggregator.take, SecureSums.open

        def taking(aggregator: RoundAggregator, i: int, message: Message | None) -> None:
            take(aggregator, i, message)
            sums = vars(aggregator)["_summed"].__self__
            self.look(aggregator, sums, message, beside=(sums._stages.grid,))

        def opening(sums: SecureSums, aggregator: RoundAggregator) -> None:
            groups = list(sums._groups)
            opened(sums, aggregator)
            self.look(aggregator, sums, groups, beside=(sums._stages.grid,))

        with (
            patch("client_app.secure.masked.quantised", self.quantised),
            patch.object(RoundAggregator, "take", taking),
            patch.object(SecureSums, "open", opening),
        ):
            play(num_server_rounds=1, **ON)
        return self


def test_the_server_never_holds_one_plain_difference(play: Player) -> None:
    looking = Looking().played(play)
    assert (looking.looked, len(looking.plain), looking.found) == (7, 6, 0)


def test_that_test_would_find_one(play: Player) -> None:
    ours, theirs = unmasked()
    with ours, theirs:
        assert Looking().played(play).found >= 6


def test_a_reply_says_no_loss(play: Player) -> None:
    said: list[set[str]] = []

    def faults(request: Message, reply: Message) -> list[Message]:
        if trains(request):
            said.append(set(reply.content.metric_records["metrics"]))
        return [reply]

    play(faults, num_server_rounds=1, **ON)
    assert said == [{"num-examples", "steps", "seconds", "seconds-computing"}] * 6
