"""Factors that a device keeps to itself: what it goes on with, what it forgets, and that nobody is sent them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from torch import Tensor

from client_app.app import app
from client_app.client_state import ClientState
from client_app.model_cache import LocalModel
from client_app.objectives import ObjectiveContext, objective
from client_app.own_factors import OwnFactors, own_factors
from client_app.training import train
from data import Split
from flotilla.local.base import address_of
from models import NetworkSpec, base_store
from models.adapters.adapter import PAIR, SHARED_A, Adapter
from models.adapters.low_rank import product
from models.adapters.own import own_tensors
from models.algebra.plans import Plan
from models.errors import SettingError
from models.networks.bases import drawn_base, first_state
from models.networks.build import layout, own_layout
from models.networks.complete import completed
from models.randomness import generator, torch_generator
from protocol import EVALUATE, Optimiser, Reply, Work
from tests.support import Player, configured, context_of, trains

RANK = 4
SPEC = NetworkSpec(
    "mlp", (1, 4, 4), 5, widths=(9, 7), norm="none", adapter=Adapter(rank=RANK, alpha=8.0, form=SHARED_A)
)
CPU = torch.device("cpu")


@pytest.fixture
def spec() -> NetworkSpec:
    whole = completed(SPEC)
    return replace(whole, base=base_store.hold(drawn_base(whole, 1)))


def loaded(spec: NetworkSpec, rank: int, context: Context, round_number: int) -> tuple[LocalModel, OwnFactors]:
    plan = Plan(Fraction(rank, RANK))
    model = LocalModel(spec, plan, CPU)
    model.load(spec, plan, torch.cat([one.flatten() for one in first_state(spec, 1).values()]), sliced=False)
    own = own_factors(model, spec, plan, ClientState(context, 7, round_number, checkpoint=0))
    assert own is not None
    return model, own


def values(model: LocalModel) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in own_tensors(model.module).items()}


def learn(model: LocalModel, amount: float) -> None:
    with torch.no_grad():
        for number, tensor in enumerate(own_tensors(model.module).values()):
            tensor.add_(amount + number)


def test_a_state_has_a_and_no_b(spec: NetworkSpec) -> None:
    of_pairs = replace(spec, adapter=Adapter(rank=RANK, alpha=8.0, form=PAIR))
    whole, pairs = layout(spec), layout(of_pairs)
    assert set(own_layout(spec).tensors) == {pair.b for pair in pairs.pairs}
    assert set(whole.tensors) == set(pairs.tensors) - set(own_layout(spec).tensors)
    one, other = first_state(spec, 1), first_state(of_pairs, 1)
    assert all(torch.equal(one[name], other[name]) for name in one)  # A is drawn as it is for pairs
    assert not own_layout(replace(spec, adapter=None, base="")).tensors


def test_a_device_goes_on_with_what_it_trained_last(spec: NetworkSpec) -> None:
    context = context_of()
    model, own = loaded(spec, 2, context, 1)
    assert own.began_anew
    assert not any(one.any() for one in values(model).values())
    learn(model, 1.0)
    own.keep()
    model, own = loaded(spec, 2, context, 2)
    assert not own.began_anew
    assert [float(one.mean()) for one in values(model).values()] == [1.0, 2.0]
    model, own = loaded(spec, 2, context, 1)  # the same round again, as a resumed run has it
    assert own.began_anew
    assert not any(one.any() for one in values(model).values())


def test_of_another_rank_it_finds_the_ranks_that_it_had(spec: NetworkSpec) -> None:
    context = context_of()
    for round_number, (rank, amount) in enumerate(((2, 1.0), (4, 10.0), (1, 100.0)), 1):
        model, own = loaded(spec, rank, context, round_number)
        learn(model, amount)
        own.keep()
    model, _ = loaded(spec, 4, context, 9)
    for number, one in enumerate(values(model).values()):
        assert one.mean(0).tolist() == [111.0 + 3 * number, 11.0 + 2 * number, 10.0 + number, 10.0 + number]


def test_b_is_trained_beside_a(spec: NetworkSpec) -> None:
    """Two steps by the loop are two steps of gradient descent on both factors."""
    context = context_of()
    model, _ = loaded(spec, 4, context, 1)
    x, y = torch.randn(6, 1, 4, 4), torch.randint(5, (6,))
    plan, memory = Plan(), ClientState(context, 7, 1, checkpoint=0)
    about = ObjectiveContext(
        module=model.module,
        spec=spec,
        plan=plan,
        labels=(0, 1, 2, 3, 4),
        settings={},
        draws=generator(0, 1, 7, "objective"),
        memory=memory,
    )
    train(
        model.module,
        Split(x, y),
        objective("cross-entropy", about),
        Optimiser(0.1),
        Work(local_epochs=3, batch_size=6),
        draws=torch_generator(0, 1, 7, "batches"),
        augmentation=None,
    )
    assert all(one.any() for one in values(model).values())
    moved = model.difference()
    assert moved.any()
    assert model.flat.numel() == layout(spec).parameters
    assert product(model.module.get_submodule(next(iter(own_layout(spec).tensors)).rpartition(".")[0])).any()


def test_clusters_are_refused() -> None:
    with pytest.raises(SettingError, match="without its B"):
        configured(method="fedsa-lora", clustering="ifca").strategy()


def test_nothing_of_b_travels_and_scores_on_devices_are_of_their_own_networks(play: Player) -> None:
    out = play(method="fedsa-lora", fraction_evaluate=1.0, num_server_rounds=3)
    assert not any(name.endswith("lora_B") for name in out.state)
    kept = sorted((out.path / "clients").rglob("own@*.safetensors"))
    assert kept
    row = out.rows[-1]
    assert row["local"]["loss"] != pytest.approx(row["loss"], abs=1e-3)
    again = play(method="fedsa-lora", fraction_evaluate=1.0, num_server_rounds=2)
    resumed = play(method="fedsa-lora", fraction_evaluate=1.0, num_server_rounds=3, resume=str(again.path))
    assert resumed.hash == out.hash
    assert resumed.rows[-1]["local"] == row["local"]  # with what the devices had kept


def test_a_device_whose_reply_never_counted_is_scored_without_what_it_learnt(play: Player) -> None:
    """Its reply is lost after it has trained, round after round: the score is that of a device that keeps nothing."""
    seen: list[tuple[float, float]] = []

    def client(message: Message, context: Context) -> Message:
        answer = app(message, context)
        if trains(message, 1):
            raise RuntimeError("lost on its way")
        if message.metadata.message_type == EVALUATE and message.metadata.dst_node_id == address_of(1):
            empty = replace(context, run_config={**context.run_config, "client-state": ""}, state=RecordDict())
            scores = [Reply.from_record(one.content, None).metrics["loss"] for one in (answer, app(message, empty))]
            seen.append((scores[0], scores[1]))
        return answer

    keys: dict[str, Any] = {"method": "fedsa-lora", "fraction_evaluate": 1.0, "num_server_rounds": 2}
    out = play(client=client, **keys)
    assert list((out.path / "clients/1").glob("own@*.safetensors"))  # it did learn, and keep that
    assert len(seen) == 2
    assert all(score == without for score, without in seen)
