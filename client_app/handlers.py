"""From request to reply: load the part, work on it, encode the answer. No method is known here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import torch
from flwr.app import Array, Context

from client_app.device import data_of, node_id, settings_of
from client_app.objectives import Setting, objective
from client_app.training import train
from client_app.workspace import LocalModel, local_model
from data import AUGMENTATIONS, Split
from models.device import device_named
from models.evaluation import evaluate
from models.network import layout, submodel
from models.randomness import generator, torch_generator
from models.statistics import collect, needs_statistics, set_statistics
from protocol import PartRequest, Reply, TrainRequest, WireError, decode, encode

_EVALUATION_BATCH = 500


def answer_train(request: TrainRequest, state: Array, context: Context) -> Reply:
    """Train the part and reply with the difference.

    Raises:
        WireError: the request cannot be met (unknown objective or codec, state of the wrong size).
    """
    began = perf_counter()
    node, examples = node_id(context), data_of(context)
    with _threads(request.work.threads):
        model = _loaded(request, state)
        setting = Setting(
            model.module, request.network, request.plan, examples.labels, request.objective.settings,
            generator(request.seed, request.round_number, node, "objective"),
        )  # fmt: skip
        trained = train(
            model.module, examples.train, objective(request.objective.name, setting), request.optimiser, request.work,
            draws=torch_generator(request.seed, request.round_number, node, "batches"),
            augmentation=AUGMENTATIONS[settings_of(context).augment],
        )  # fmt: skip
        difference = model.difference()
    if request.codec not in ("float32", "float16"):
        raise WireError(f"codec {request.codec!r}: this client knows float32, float16")
    encoded = encode(difference if request.codec == "float32" else difference.half())
    metrics = {
        "num-examples": float(len(examples.train)),
        "loss": trained.loss,
        "accuracy": trained.accuracy,
        "steps": float(trained.steps),
        "seconds": perf_counter() - began,
        "seconds-computing": trained.seconds_computing,
    }
    return Reply(request.nonce, encoded, metrics)


def answer_statistics(request: PartRequest, state: Array, context: Context) -> Reply:
    """Reply with the moments of every static batch norm of the part, over this device's training examples."""
    examples = data_of(context)
    with _threads(request.work.threads):
        model = _loaded(request, state)
        moments = collect(model.module, _inputs(examples.train, request))
    return Reply(request.nonce, encode(moments), {"num-examples": float(len(examples.train))})


def answer_evaluate(request: PartRequest, state: Array, context: Context) -> Reply:
    """Score the part on this device's own test examples; also restricted to the labels it has.

    Static batch norm takes its statistics from this device's training examples, never from the test batch.
    """
    examples = data_of(context)
    held_out = examples.test
    if not len(held_out):  # nothing to score on: no examples, so the server leaves this out
        return Reply(request.nonce, None, _scores(held_out, 0.0, 0.0, 0.0))
    with _threads(request.work.threads):
        model = _loaded(request, state)
        if needs_statistics(model.module):
            set_statistics(model.module, collect(model.module, _inputs(examples.train, request)))
        device = device_named(request.work.device)
        inputs, labels = held_out.inputs.to(device), held_out.labels.to(device)
        plain = evaluate(model.module, inputs, labels)
        own = evaluate(model.module, inputs, labels, allowed=examples.labels)
    return Reply(request.nonce, None, _scores(held_out, plain.loss, plain.accuracy, own.accuracy))


def _scores(examples: Split, loss: float, accuracy: float, own_labels: float) -> dict[str, float]:
    return {
        "num-examples": float(len(examples)),
        "loss": loss,
        "accuracy": accuracy,
        "accuracy-own-labels": own_labels,
    }


def _inputs(examples: Split, request: PartRequest) -> Iterator[torch.Tensor]:
    device = device_named(request.work.device)
    return (batch.to(device) for batch in torch.split(examples.inputs, _EVALUATION_BATCH))


def _loaded(request: PartRequest, state: Array) -> LocalModel:
    """The process's model of this shape, with the requested part in it."""
    try:
        part = submodel(request.network, request.plan)
    except (ValueError, KeyError) as error:
        raise WireError(f"the plan does not fit the network: {error}") from None
    length = part.numel if request.sliced else layout(request.network).parameters
    model = local_model(request.network, request.plan, device_named(request.work.device))
    model.load(request.network, request.plan, decode(state, length), sliced=request.sliced)
    return model


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with a fixed number of threads: float sums depend on it, so it is part of the request."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
