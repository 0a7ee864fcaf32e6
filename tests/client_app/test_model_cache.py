"""One model object per shape and process, and no trace of whoever used it before."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from flwr.app import Context

from client_app import training
from client_app.device import data_of
from client_app.handlers import answer_evaluate, answer_statistics, answer_train
from client_app.model_cache import local_model
from flotilla.local.grid import contexts
from models.algebra.plans import Plan
from models.algebra.submodel import flatten
from models.evaluation import evaluate
from models.networks.build import build_part, initial_state, layout, submodel
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from models.randomness import torch_generator
from models.statistics import collect, set_statistics
from protocol import (
    Objective,
    Optimiser,
    Reply,
    Scalar,
    StatisticsRequest,
    TrainRequest,
    WireError,
    Work,
    decode,
    encode,
)
from protocol.codecs import codec_from
from tests.protocol.cases import Kept
from tests.support import TINY, address_of

CPU = torch.device("cpu")
WORK = Work(local_epochs=1, batch_size=64, device="cpu")
SGD = Optimiser(0.05, momentum=0.9, weight_decay=5e-4, clip_norm=1.0)
HALF, FULL = Plan(Fraction(1, 2)), Plan()
RATES = (Fraction(1, 4), Fraction(1, 2), Fraction(1))
SPECS = {
    "mlp": completed(NetworkSpec("mlp", (1, 8, 8), 10, widths=(16, 8))),
    "mlp-per-width": completed(NetworkSpec("mlp", (1, 8, 8), 10, widths=(16, 8), norm="batch-per-width", rates=RATES)),
    "cnn": completed(NetworkSpec("cnn", (1, 8, 8), 10, widths=(4, 8, 8, 8), scaler=True)),
    "resnet": completed(NetworkSpec("resnet", (1, 8, 8), 10, widths=(4, 8), blocks=(1, 1), norm="group")),
}
EACH = pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))


def device(node: int = 0, **keys: Any) -> Context:
    return contexts({**TINY, "num-clients": 6, **keys}, 6)[address_of(node)]


def state_of(spec: NetworkSpec) -> dict[str, torch.Tensor]:
    return initial_state(spec, torch_generator(1, 0, "server", "initial state"))


def request(spec: NetworkSpec, plan: Plan = HALF, **changes: Any) -> TrainRequest:
    asked = TrainRequest(round_number=1, nonce="nonce", seed=1, network=spec, plan=plan, work=WORK, optimiser=SGD)
    return replace(asked, **changes)


def train(asked: TrainRequest, context: Context | None = None) -> Reply:
    state = state_of(asked.network)
    held = submodel(asked.network, asked.plan).gather(state) if asked.sliced else state
    return answer_train(asked, encode(flatten(held)), context or device())


def difference(reply: Reply, asked: TrainRequest) -> torch.Tensor:
    assert reply.array is not None
    return decode(reply.array, submodel(asked.network, asked.plan).numel).clone()


@EACH
def test_one_object_per_shape(spec: NetworkSpec) -> None:
    first = local_model(spec, HALF, CPU)
    assert local_model(spec, HALF, CPU) is first
    assert local_model(spec, Plan(Fraction(1, 2), shift=3), CPU) is first  # other units, the same shape
    assert local_model(spec, FULL, CPU) is not first
    train(request(spec))
    assert local_model(spec, HALF, CPU) is first


@EACH
def test_its_tensors_are_views_of_one_vector(spec: NetworkSpec) -> None:
    model = local_model(spec, HALF, CPU)
    train(request(spec))
    start, end = model.flat.data_ptr(), model.flat.data_ptr() + 4 * model.flat.numel()
    for name, tensor in model.module.state_dict().items():
        assert start <= tensor.data_ptr() < end, name
    assert torch.equal(flatten(model.module.state_dict()), model.flat)
    model.flat.fill_(0.25)
    assert all((tensor == 0.25).all() for tensor in model.module.state_dict().values())


@EACH
@pytest.mark.parametrize("objective", ["cross-entropy", "masked-cross-entropy", "ordered-dropout"])
def test_no_trace_of_the_client_before(spec: NetworkSpec, objective: str) -> None:
    """Momentum, statistics, draws, weights: a client's reply is the same alone and after another one."""
    settings: dict[str, Scalar] = {}
    if objective == "ordered-dropout":
        settings = {"rates": "1/4,1/2,1", "distillation": True}
    asked = request(spec, objective=Objective(objective, settings))
    alone = train(asked, device(3))
    for other, context in (
        (replace(asked, round_number=9), device(5)),
        (request(spec, optimiser=Optimiser(3.0, 0.99)), device(1)),
    ):
        train(other, context)
    again = train(asked, device(3))
    assert torch.equal(difference(alone, asked), difference(again, asked))
    timeless = [{k: v for k, v in reply.metrics.items() if "seconds" not in k} for reply in (alone, again)]
    assert timeless[0] == timeless[1]


@EACH
def test_no_trace_of_a_client_that_blew_up(spec: NetworkSpec) -> None:
    asked = request(spec)
    alone = difference(train(asked), asked)
    blown = difference(train(replace(asked, optimiser=Optimiser(1e30))), asked)
    assert not blown.isfinite().all()
    assert torch.equal(difference(train(asked), asked), alone)


@EACH
def test_statistics_of_one_client_are_not_anothers(spec: NetworkSpec) -> None:
    flat = encode(flatten(state_of(spec)))
    asked = request(spec)
    alone = answer_evaluate(asked, flat, device(2)).metrics
    answer_evaluate(replace(asked, round_number=3), flat, device(4))
    train(asked, device(1))
    assert answer_evaluate(asked, flat, device(2)).metrics == alone


@EACH
def test_global_generators_are_left_alone(spec: NetworkSpec) -> None:
    before = torch.get_rng_state()
    asked = request(spec)
    reply = difference(train(asked), asked)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(difference(train(asked), asked), reply)


@EACH
def test_sliced_here_or_there(spec: NetworkSpec) -> None:
    asked = request(spec)
    assert torch.equal(difference(train(asked), asked), difference(train(replace(asked, sliced=True)), asked))


@EACH
@pytest.mark.parametrize("plan", [HALF, Plan(Fraction(1, 2), shift=3)])
def test_training_a_part_writes_nowhere_else(spec: NetworkSpec, plan: Plan) -> None:
    """The state that came is not touched, and the difference has exactly the part's coordinates."""
    state = state_of(spec)
    received = flatten(state)
    array = encode(received)
    data = bytes(array.data)
    reply = answer_train(request(spec, plan), array, device())
    assert bytes(array.data) == data
    assert torch.equal(received, flatten(state))
    assert reply.array is not None
    assert tuple(reply.array.shape) == (submodel(spec, plan).numel,)
    assert submodel(spec, plan).numel < layout(spec).parameters


def test_training_moves_what_a_plain_loop_moves() -> None:
    """One step of plain SGD on one batch: the same difference as PyTorch's own."""
    spec, examples = SPECS["mlp"], data_of(device()).train
    asked = request(spec, work=replace(WORK, batch_size=len(examples)), optimiser=Optimiser(0.1))
    network = build_part(spec, HALF)
    network.load_state_dict(submodel(spec, HALF).gather(state_of(spec)))
    before = flatten(network.state_dict())
    torch.nn.functional.cross_entropy(network.train()(examples.inputs), examples.labels).backward()  # type: ignore[no-untyped-call]
    torch.optim.SGD(network.parameters(), 0.1).step()
    torch.testing.assert_close(
        difference(train(asked), asked), flatten(network.state_dict()) - before, atol=2e-6, rtol=1e-4
    )


def test_the_threads_of_the_process_come_back() -> None:
    before, seen = torch.get_num_threads(), []
    hook = local_model(SPECS["mlp"], HALF, CPU).module.register_forward_hook(
        lambda *_: seen.append(torch.get_num_threads())
    )
    try:
        for threads in (1, 2):
            train(request(SPECS["mlp"], work=replace(WORK, threads=threads, train_as="loop")))
            assert set(seen[-3:]) == {threads}
            assert torch.get_num_threads() == before
        with pytest.raises(WireError):
            train(request(SPECS["mlp"], objective=Objective("no such thing")))
        assert torch.get_num_threads() == before
    finally:
        hook.remove()


def test_mixed_precision_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "has_bfloat16", lambda device: True)
    exact, mixed = (request(SPECS["cnn"], work=replace(WORK, mixed_precision=mixed)) for mixed in (False, True))
    a, b = difference(train(exact), exact), difference(train(mixed), mixed)
    assert b.isfinite().all()
    assert not torch.equal(a, b)
    assert (a - b).norm() < 0.5 * a.norm()
    assert torch.equal(difference(train(mixed), mixed), b)
    monkeypatch.setattr(training, "has_bfloat16", lambda device: False)
    training._say_without_bfloat16.cache_clear()
    said: list[str] = []
    monkeypatch.setattr(training, "log", lambda _level, text, *values: said.append(text % values))
    loop = request(SPECS["cnn"], work=replace(WORK, train_as="loop"))
    for _ in range(2):
        assert torch.equal(difference(train(mixed), mixed), difference(train(loop), loop))
    (line,) = said
    assert line.startswith("mixed-precision: this cpu has no bfloat16 instructions and trains in float32")


@EACH
def test_the_share_of_computing_is_reported(spec: NetworkSpec) -> None:
    metrics = train(request(spec, work=replace(WORK, local_epochs=3))).metrics
    assert 0 < metrics["seconds-computing"] <= metrics["seconds"]
    assert metrics["steps"] == 3 * -(-metrics["num-examples"] // 64)
    assert metrics["num-examples"] == len(data_of(device()).train)


def test_half_precision_replies() -> None:
    asked = request(SPECS["mlp"], codec="float16")
    reply = train(asked)
    assert reply.array is not None
    assert reply.array.dtype == "uint8"
    exact = difference(train(request(SPECS["mlp"])), request(SPECS["mlp"]))
    sizes = [block.numel for block in submodel(asked.network, asked.plan).values()]
    half = codec_from("float16").decode(reply.array, sizes, Kept()).flat
    torch.testing.assert_close(half, exact, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    "asked",
    [
        request(SPECS["mlp"], codec="int8"),
        request(SPECS["mlp"], objective=Objective("hinge")),
        request(SPECS["mlp"], objective=Objective("ordered-dropout")),
        request(SPECS["mlp"], objective=Objective("ordered-dropout", {"rates": "1/3"})),
        request(SPECS["mlp"], Plan(Fraction(1, 2), units=(("hidden1", (3, 99)),))),
        request(SPECS["mlp"], Plan(Fraction(1, 2), units=(("nowhere", (3,)),))),
        request(SPECS["mlp"], Plan(depth=7)),
        request(SPECS["mlp"], Plan(Fraction(1, 100), floor=True)),
    ],
)
def test_what_cannot_be_met_is_refused_in_words(asked: TrainRequest) -> None:
    with pytest.raises(WireError):
        answer_train(asked, encode(flatten(state_of(asked.network))), device())


@pytest.mark.parametrize("length", [0, 1, 5000])
def test_a_state_of_another_size_is_refused(length: int) -> None:
    with pytest.raises(WireError, match="shape"):
        answer_train(request(SPECS["mlp"]), encode(torch.zeros(length)), device())


def test_moments_of_devices_pool_by_adding() -> None:
    """Two devices' vectors together are the vector of their examples together, as far as the first layer goes."""
    spec = SPECS["mlp"]
    flat = encode(flatten(state_of(spec)))
    asked = StatisticsRequest(round_number=1, nonce="nonce", seed=1, network=spec, plan=HALF, work=WORK)
    replies = [answer_statistics(asked, flat, device(node)) for node in (0, 1)]
    arrays = [reply.array for reply in replies if reply.array is not None]
    first, second = (decode(array, array.shape[0], "float64") for array in arrays)
    both = torch.cat([data_of(device(node)).train.inputs for node in (0, 1)])
    network = build_part(spec, HALF)
    network.load_state_dict(submodel(spec, HALF).gather(state_of(spec)))
    together = collect(network, [both])
    until = 1 + 2 * 8  # the first norm: a count, eight sums, eight sums of squares
    torch.testing.assert_close((first + second)[:until], together[:until], rtol=1e-5, atol=1e-5)
    assert (first + second)[0] == len(both) == sum(reply.metrics["num-examples"] for reply in replies)


def test_evaluation_is_on_the_devices_own_examples_and_labels() -> None:
    """Own labels only: the prediction is the best among them, reported apart."""
    spec, context = SPECS["mlp"], device(2, partition="labels", **{"labels-per-client": 2, "num-clients": 20})
    examples = data_of(context)
    assert len(examples.labels) == 2
    assert len(examples.test) > 0
    metrics = answer_evaluate(request(spec), encode(flatten(state_of(spec))), context).metrics
    network = build_part(spec, HALF)
    network.load_state_dict(submodel(spec, HALF).gather(state_of(spec)))
    set_statistics(network, collect(network, [examples.train.inputs]))
    plain = evaluate(network, examples.test.inputs, examples.test.labels)
    own = evaluate(network, examples.test.inputs, examples.test.labels, allowed=examples.labels)
    assert metrics == {
        "num-examples": float(len(examples.test)),
        "loss": pytest.approx(plain.loss),
        "accuracy": plain.accuracy,
        "accuracy-own-labels": own.accuracy,
    }
    assert own.accuracy >= plain.accuracy
    assert own.accuracy > 0.2
