"""From request to reply: load the part, work on it, encode the answer. No method is known here."""

from __future__ import annotations

from time import perf_counter

import torch
from flwr.app import Array, Context

from client_app.client_state import Memory
from client_app.cluster_choice import best_on_path, fitting_the_test, load_fitting, received_states
from client_app.device import attack_of, data_of, node_id, settings_of
from client_app.downlink import whole_state
from client_app.feddyn import FedDynRegulariser
from client_app.gradients import gradient
from client_app.initial_loss import loss_before
from client_app.model_cache import LocalModel, full_shapes, local_model
from client_app.objectives import Setting, objective
from client_app.statistics import moments_of
from client_app.training import train
from data import AUGMENTATIONS, Split
from models.device import device_named, threads
from models.errors import SettingError
from models.evaluation import evaluate
from models.networks.build import submodel
from models.norms.dual_norm import noise_share
from models.randomness import generator, torch_generator
from models.statistics import needs_statistics, set_statistics
from protocol import LossRequest, PartRequest, Reply, TrainRequest, WireError, encode
from protocol.codecs import OfPart, codec_from


def answer_train(request: TrainRequest, state: Array, context: Context) -> Reply:
    """Train the part and reply with the difference.

    Raises:
        WireError: the request cannot be met (unknown objective or codec, state of the wrong size).
    """
    began = perf_counter()
    node, examples = node_id(context), data_of(context)
    memory = Memory(
        context, node, round_number=request.round_number, checkpoint=request.checkpoint, counted=request.counted
    )
    codec, training = codec_from(request.codec), request.work.adversarial
    if request.compressed is not None:
        state = whole_state(request.compressed, request.network, state, memory)
    with threads(request.work.threads):
        model, measured = _loaded(request, state, examples.train)
        setting = Setting(
            module=model.module,
            spec=request.network,
            plan=request.plan,
            labels=examples.labels,
            settings=request.objective.settings,
            draws=generator(request.seed, request.round_number, node, "objective"),
            memory=memory,
            adversarial=0.0 if training is None else training.weight,
            attack=None if training is None else attack_of(training, request, context),
        )
        if request.work.measure.initial_loss:
            device = device_named(request.work.device)
            measured["loss-before"] = loss_before(request.objective.name, setting, examples.train, device)
        regulariser = None
        if request.feddyn is not None:
            regulariser = FedDynRegulariser(
                model, model.part, spec=request.network, alpha=request.feddyn.alpha, memory=memory
            )
        trained = train(
            model.module,
            examples.train,
            objective(request.objective.name, setting),
            request.optimiser,
            request.work,
            draws=torch_generator(request.seed, request.round_number, node, "batches"),
            augmentation=AUGMENTATIONS[settings_of(context).augment],
            adjust=None if regulariser is None else regulariser.add_gradients,
        )
        if regulariser is not None:
            regulariser.keep()
            measured["began-anew"] = float(regulariser.began_anew)
        if trained.loss_square is not None:
            measured["loss-square"] = trained.loss_square
        difference = model.difference()
        if request.work.measure.norm:
            measured["norm"] = model.parameter_norm(difference)
        encoded = codec.encode(
            difference,
            [block.numel for block in model.part.values()],
            generator(request.seed, request.round_number, node, "codec"),
            OfPart(memory, model.part, full_shapes(request.network)),
            request.codec_base,
        )
    metrics = {
        "num-examples": float(len(examples.train)),
        "loss": trained.loss,
        "accuracy": trained.accuracy,
        "steps": float(trained.steps),
        "seconds": perf_counter() - began,
        "seconds-computing": trained.seconds_computing,
        **measured,
    }
    return Reply(request.nonce, encoded, metrics)


def answer_statistics(request: PartRequest, state: Array, context: Context) -> Reply:
    """Reply with the moments of every static batch norm of the part, over this device's training examples."""
    examples = data_of(context)
    with threads(request.work.threads):
        model, _ = _loaded(request, state, examples.train)
        moments = moments_of(model.module, examples.train, request, context)
    return Reply(request.nonce, encode(moments), {"num-examples": float(len(examples.train))})


def answer_losses(request: LossRequest, state: Array, context: Context) -> Reply:
    """Reply with the mean loss of the part on this device's training examples, or on as many as were asked for.

    In evaluation mode, without augmentation; static batch norm takes its statistics from the same examples.
    """
    node, examples = node_id(context), data_of(context).train
    if 0 < request.batch < len(examples):
        draws = generator(request.seed, request.round_number, node, "probe")
        rows = torch.from_numpy(draws.choice(len(examples), request.batch, replace=False))
        examples = Split(examples.inputs[rows], examples.labels[rows])
    with threads(request.work.threads):
        model, said = _loaded(request, state, examples)
        setting = _setting(request, model, context)
        loss = loss_before(request.objective, setting, examples, device_named(request.work.device))
    return Reply(request.nonce, None, {"num-examples": float(len(examples)), "loss": loss, **said})


def answer_gradients(request: LossRequest, state: Array, context: Context) -> Reply:
    """Reply with the gradient of that loss by every coordinate of the part."""
    examples = data_of(context).train
    with threads(request.work.threads):
        setting = _setting(request, _loaded(request, state, examples)[0], context)
        found = gradient(request.objective, setting, examples, device_named(request.work.device))
    return Reply(request.nonce, encode(found), {"num-examples": float(len(examples))})


def _setting(request: LossRequest, model: LocalModel, context: Context) -> Setting:
    """What an objective may depend on, when nothing is going to be trained."""
    node = node_id(context)
    return Setting(
        module=model.module,
        spec=request.network,
        plan=request.plan,
        labels=data_of(context).labels,
        settings={},
        draws=generator(request.seed, request.round_number, node, "objective"),
        memory=Memory(context, node, request.round_number, 0),
    )


def answer_evaluate(request: PartRequest, state: Array, context: Context) -> Reply:
    """Score the part on this device's own test examples; also restricted to the labels it has.

    Static batch norm takes its statistics from this device's training examples, never from the test batch.
    """
    examples = data_of(context)
    held_out = examples.test
    if not len(held_out):  # nothing to score on: no examples, so the server leaves this out
        return Reply(request.nonce, None, _scores(held_out, 0.0, 0.0, 0.0))
    with threads(request.work.threads):
        model, said = _loaded(request, state, examples.train)
        if needs_statistics(model.module):
            set_statistics(model.module, moments_of(model.module, examples.train, request, context))
        device = device_named(request.work.device)
        inputs, labels = held_out.inputs.to(device), held_out.labels.to(device)
        training = request.work.adversarial
        with noise_share(model.module, 0.0 if training is None else training.noise_share):
            plain = evaluate(model.module, inputs, labels)
            own = evaluate(model.module, inputs, labels, allowed=examples.labels)
        states = received_states(request, state)
        if request.clusters is not None and request.clusters.path:
            said = best_on_path(model, request, states, held_out, examples.train)
        elif said:
            said["accuracy-test-identity"] = fitting_the_test(model, request, states, held_out, examples.train)
    return Reply(request.nonce, None, _scores(held_out, plain.loss, plain.accuracy, own.accuracy) | said)


def _scores(examples: Split, loss: float, accuracy: float, own_labels: float) -> dict[str, float]:
    return {
        "num-examples": float(len(examples)),
        "loss": loss,
        "accuracy": accuracy,
        "accuracy-own-labels": own_labels,
    }


def _loaded(request: PartRequest, state: Array, examples: Split) -> tuple[LocalModel, dict[str, float]]:
    """The process's model of this shape with the requested part in it, and what the reply has to say of that.

    Of several states the one that fits the examples best is loaded, and the reply says which.
    """
    try:
        submodel(request.network, request.plan)
    except SettingError as error:  # a network that is not known here, or not allowed
        raise WireError(f"this client: {error}") from None
    except (ValueError, KeyError) as error:
        raise WireError(f"the plan does not fit the network: {error}") from None
    model = local_model(request.network, request.plan, device_named(request.work.device))
    states = received_states(request, state)
    if request.clusters is not None and request.clusters.path:
        del states[:-1]
    if len(states) > 1:
        return model, {"cluster": float(load_fitting(model, request, states, examples))}
    model.load(request.network, request.plan, states[0], sliced=request.sliced)
    return model, {}
