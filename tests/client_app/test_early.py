"""Clients that were trained before their turn: what is said of them, and to whom the model belongs meanwhile."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from unittest.mock import patch

import pytest
from flwr.app import ArrayRecord

from client_app import model_cache, side_by_side
from client_app.handlers import answer_evaluate, answer_train
from client_app.model_cache import LocalModel
from flotilla.local.grid import contexts
from models.algebra.plans import Plan
from models.algebra.submodel import flatten
from models.networks.build import initial_state, layout, submodel
from models.randomness import torch_generator
from protocol import STATE, Measurements, TrainRequest, Work, decode, encode
from tests.client_app.groups import SMALL, noted
from tests.support import address_of, configured, keys_of

WORK = Work(batch_size=16, measure=Measurements(initial_loss=True, norm=True, squared_loss=True))


@pytest.fixture(autouse=True)
def nothing_is_known() -> Iterator[None]:
    """Of no shape it is known whether its sums differ."""
    with patch.object(model_cache, "_models", OrderedDict()):
        yield


@pytest.mark.parametrize("shared", [True, False], ids=["one state in memory", "a state each"])
def test_other_messages_between_clients_of_a_group_change_nothing(shared: bool) -> None:
    """The model that all of them use is scored, and trained by somebody who has another part of the same shape.

    What lies in memory once is cut once, too.
    """
    network = configured(**SMALL).network
    asked = TrainRequest(round_number=1, nonce="0", seed=1, network=network, plan=Plan(Fraction(1, 2)), work=WORK)
    state = encode(flatten(initial_state(network, torch_generator(1, 0, "server", "initial state"))))
    flat = decode(state, layout(network).parameters)
    states = [state if shared else encode(flat * (1 + node / 10)) for node in range(4)]
    devices = [contexts(keys_of(num_clients=8), 8)[address_of(node)] for node in range(4)]
    requests = [replace(asked, nonce=str(node)) for node in range(4)]

    def answered(node: int) -> tuple[list[float], dict[str, float]]:
        reply = answer_train(requests[node], states[node], devices[node])
        assert reply.array is not None
        learnt = decode(reply.array, submodel(network, asked.plan).numel).tolist()
        return learnt, {name: value for name, value in reply.metrics.items() if "seconds" not in name}

    wanted = [answered(node) for node in range(4)]
    records = [one.to_record(ArrayRecord({STATE: own})) for one, own in zip(requests, states, strict=True)]
    side_by_side.expect(list(zip(records, devices, strict=True)))
    try:
        with noted() as sizes, patch.object(LocalModel, "cut", autospec=True, side_effect=LocalModel.cut) as cut:
            found = [answered(0)]
            answer_evaluate(asked, state, devices[3])
            found.append(answered(1))
            answer_train(replace(asked, nonce="another", plan=Plan(Fraction(1, 2), shift=1)), state, devices[2])
            found += [answered(2), answered(3)]
    finally:
        side_by_side.expect_nobody()
    assert sizes == [4, 1]
    assert cut.call_count == (0 if shared else 3)
    assert found == wanted
    assert all({"loss-before", "norm", "loss-square"} <= metrics.keys() for _, metrics in found)
