"""From request to reply: load the part, work on it, encode the answer. No method is known here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from time import perf_counter

import torch
from flwr.app import Array, Context

from client_app import side_by_side
from client_app.base import require_base
from client_app.client_state import ClientState
from client_app.cluster_choice import best_on_path, fitting_the_test, load_fitting, received_states
from client_app.device import attack_of, data_of, node_id, settings_of
from client_app.downlink import whole_state
from client_app.feddyn import FedDynRegulariser
from client_app.initial_loss import initial_gradient, initial_loss
from client_app.local_scores import local_scores
from client_app.model_cache import LocalModel, check_size, local_model
from client_app.objectives import ObjectiveContext, Settles, objective
from client_app.own_factors import own_factors
from client_app.secure.masked import joined, masked
from client_app.statistics import moments_of
from client_app.training import train
from data import AUGMENTATIONS, Split
from models.adapters.cores import fold_scales
from models.adapters.dropout import dropping
from models.device import device_named, threads
from models.errors import SettingError
from models.norms.dual_norm import noise_share
from models.randomness import generator, torch_generator
from models.statistics import needs_statistics, set_statistics
from protocol import LossRequest, PartRequest, Reply, Scalar, StatisticsRequest, TrainRequest, WireError, encode
from protocol.codecs import NO_DRAWS, OfPart, codec_from
from protocol.memory_format import memory_format
from protocol.reply_room import REPLY_ROOM
from protocol.training_way import steps_in_layers, why_loop


def answer_train(request: TrainRequest, state: Array, context: Context) -> Reply:
    """Train the part and reply with the difference.

    Raises:
        WireError: the request cannot be met (unknown network, objective or codec, state of the wrong size).
    """
    began = perf_counter()
    seed, number, node, settings = request.seed, request.round_number, node_id(context), settings_of(context)
    data = data_of(context, request.facts)
    examples = data.train
    kept = ClientState(context, node, number, checkpoint=request.checkpoint, counted=request.counted)
    codec, training = codec_from(request.codec), request.work.adversarial
    session = None if request.secure is None else joined(request.secure, context)
    if request.compressed is not None:
        state = whole_state(request.compressed, request.network, state, kept)
    with threads(request.work.threads):
        early = side_by_side.trained_early(request)
        model, measured = _load(request, state, examples, context, early=early)
        # Made anew by whoever needs it: the draws of each begin anew, so the first loss takes none from the training.
        about = partial(_objective_context, request, model, data.labels, kept, request.objective.settings)
        own = None if request.network.adapter is None else own_factors(model, request.network, request.plan, kept)
        draws = codec.DRAWS or request.secure is not None
        noise = generator(seed, number, node, "codec") if draws else NO_DRAWS
        if request.work.measure.initial_loss:
            measured["loss-before"] = initial_loss(request.objective.name, about(), examples, model.device)
        regulariser, optimiser = None, request.optimiser
        if request.dynamic_regulariser is not None:
            alpha = request.dynamic_regulariser.alpha
            regulariser = FedDynRegulariser(model, request.network, alpha, kept)
            optimiser = replace(optimiser, proximal=optimiser.proximal + alpha)
            measured["began-anew"] = float(regulariser.began_anew)
        augmentation, elsewhere = AUGMENTATIONS[settings.augment], 0.0
        regularised, name = regulariser is not None, request.objective.name
        why = why_loop(request.network, request.plan, request.work, name, regularised=regularised)
        if early is not None:
            trained, elsewhere = early.trained, early.seconds
        elif model.device.type == "cpu" and not why:  # on other devices backward passes are PyTorch's
            trained, elsewhere = side_by_side.train(
                model, request, state, data=data, node=node, augmentation=augmentation
            )
        else:
            setting = about()
            if training is not None:
                attack = attack_of(training, request, context)
                setting = replace(setting, adversarial=training.weight, attack=attack)
            loss = objective(name, setting)
            with dropping(model.module, torch_generator(seed, number, node, "adapter dropout")):
                trained = train(
                    model.module,
                    examples,
                    loss,
                    optimiser,
                    request.work,
                    draws=torch_generator(seed, number, node, "batches"),
                    augmentation=augmentation,
                    adjust=None if regulariser is None else regulariser.add_linear,
                    task=request.network.task,
                    memory_format=memory_format(request.network, request.plan, request.work, model.device),
                    in_layers=steps_in_layers(
                        request.network, request.plan, request.work, name, request.optimiser, regularised=regularised
                    ),
                )
            fold_scales(model.module)
            if isinstance(loss, Settles):
                measured |= loss.settle()
        if regulariser is not None:
            regulariser.keep()
        if own is not None:
            own.keep()
            measured["began-anew"] = max(measured.get("began-anew", 0.0), float(own.began_anew))
        if trained.loss_square is not None:
            measured["loss-square"] = trained.loss_square
        room = REPLY_ROOM.get() if request.secure is None else None  # what is masked is not sent as it is
        difference = model.difference(None if room is None else codec.place(room, model.flat.numel()))
        if request.work.measure.norm:
            measured["norm"] = model.parameter_norm(difference)
        scores = {"loss": trained.loss, "accuracy": trained.accuracy}
        if request.secure is not None and session is not None:  # they go into the sum, too
            encoded, scores = masked(request.secure, session, context, difference, numbers=scores, draws=noise), {}
        else:
            seen_by_codec = OfPart(kept, model.part, model.full_shapes)
            encoded = codec.encode(difference, model.sizes, noise, seen_by_codec, request.codec_base)
    metrics = scores | {
        "num-examples": float(len(examples.labels)),
        "steps": float(trained.steps),
        "seconds": perf_counter() - began + elsewhere,
        "seconds-computing": trained.seconds_computing,
    }
    return Reply(request.nonce, encoded, metrics | measured)


def answer_statistics(request: StatisticsRequest, state: Array, context: Context) -> Reply:
    """Reply with the moments of every static batch norm of the parts, over this device's training examples."""
    examples = data_of(context, request.facts).train
    moments = []
    with threads(request.work.threads):
        for part in request.each():
            model, _ = _load(part, state, examples, context)
            moments.append(moments_of(model.module, examples, part, context))
    return Reply(request.nonce, encode(torch.cat(moments)), {"num-examples": float(len(examples))})


def answer_losses(request: LossRequest, state: Array, context: Context) -> Reply:
    """Reply with the mean loss of the part on this device's training examples, or on as many as were asked for.

    In evaluation mode, without augmentation; static batch norm takes its statistics from the same examples.
    """
    node, data = node_id(context), data_of(context, request.facts)
    examples = data.train
    if 0 < request.batch < len(examples):
        draws = generator(request.seed, request.round_number, node, "probe")
        rows = torch.from_numpy(draws.choice(len(examples), request.batch, replace=False))
        examples = examples.select(rows)
    with threads(request.work.threads):
        model, chosen = _load(request, state, examples, context)
        kept = ClientState(context, node, request.round_number, checkpoint=0, counted=request.counted)
        own_factors(model, request.network, request.plan, kept)
        about = _objective_context(request, model, data.labels, kept, {})
        loss = initial_loss(request.objective, about, examples, model.device)
    return Reply(request.nonce, None, {"num-examples": float(len(examples)), "loss": loss} | chosen)


def answer_gradients(request: LossRequest, state: Array, context: Context) -> Reply:
    """Reply with the gradient of that loss by every coordinate of the part."""
    node, data = node_id(context), data_of(context, request.facts)
    examples = data.train
    with threads(request.work.threads):
        model, _ = _load(request, state, examples, context)
        kept = ClientState(context, node, request.round_number, checkpoint=0, counted=request.counted)
        own_factors(model, request.network, request.plan, kept)
        about = _objective_context(request, model, data.labels, kept, {})
        gradient = initial_gradient(request.objective, about, examples, model.device)
    return Reply(request.nonce, encode(gradient), {"num-examples": float(len(examples))})


def answer_evaluate(request: PartRequest, state: Array, context: Context) -> Reply:
    """Score the part on this device's own test examples; also restricted to the labels it has.

    Static batch norm takes its statistics from this device's training examples, never from the test batch.
    """
    examples, clusters, training = data_of(context, request.facts), request.clusters, request.work.adversarial
    test, task = examples.test, request.network.task
    if not len(test):  # nothing to score on: no examples, so the server leaves this out
        nothing = {"num-examples": 0.0, "loss": 0.0, "accuracy": 0.0, "accuracy-own-labels": 0.0}
        return Reply(request.nonce, None, nothing)
    with threads(request.work.threads):
        model, measured = _load(request, state, examples.train, context)
        # A part is scored after the round that trained it.
        kept = ClientState(context, node_id(context), request.round_number + 1, checkpoint=0, counted=request.counted)
        own_factors(model, request.network, request.plan, kept)
        if needs_statistics(model.module):
            set_statistics(model.module, moments_of(model.module, examples.train, request, context))
        with noise_share(model.module, 0.0 if training is None else training.noise_share):
            scores = local_scores(
                model.module, test, examples.labels, task=task, device=model.device, metric=request.metric
            )
        if clusters is not None:
            states = received_states(request, clusters, state)
            if clusters.path:
                measured = best_on_path(model, request, states, test, examples.train)
            elif len(states) > 1:
                accuracy = fitting_the_test(model, request, states, test, examples.train)
                measured["accuracy-test-identity"] = accuracy
    return Reply(request.nonce, None, {"num-examples": float(len(test))} | scores | measured)


def _load(
    request: PartRequest,
    state: Array,
    examples: Split,
    context: Context,
    *,
    early: side_by_side.Early | None = None,
) -> tuple[LocalModel, dict[str, float]]:
    """The process's model of this shape with the requested part in it, and what the reply has to say of that.

    Of the states of several clusters the one that fits the examples best is loaded, and the reply says which. What was
    trained before its turn is there as it was learnt.

    Raises:
        WireError: a network that this client does not know, or whose base it has not, a plan that does not fit it, a
            state of another size.
    """
    try:
        check_size(request.network, request.plan, state, sliced=request.sliced)
        if request.network.adapter is not None:
            require_base(request.network, request.seed, context)
        model = local_model(request.network, request.plan, device_named(request.work.device))
    except WireError:
        raise
    except SettingError as error:  # a network that is not known here, or not allowed: says where it was looked for
        raise WireError(f"this client: {error}") from None
    except (ValueError, KeyError) as error:
        raise WireError(f"the plan does not fit the network: {error}") from None
    if early is not None:
        if request.work.measure.initial_loss:  # of what it began from, which is not in the model
            model.flat.copy_(early.start)
        model.take_over(request.network, request.plan, start=early.start, learnt=early.learnt)
        return model, {}
    received: Array | torch.Tensor = state
    if request.clusters is not None:
        states = received_states(request, request.clusters, state)
        if len(states) > 1 and not request.clusters.path:
            return model, {"cluster": float(load_fitting(model, request, states, examples))}
        received = states[-1]
    model.load(request.network, request.plan, received, sliced=request.sliced)
    return model, {}


def _objective_context(
    request: PartRequest, model: LocalModel, labels: tuple[int, ...], kept: ClientState, settings: Mapping[str, Scalar]
) -> ObjectiveContext:
    """What an objective may depend on, without attacks."""
    draws = generator(request.seed, request.round_number, kept.node, "objective")
    return ObjectiveContext(
        module=model.module,
        spec=request.network,
        plan=request.plan,
        labels=labels,
        settings=settings,
        draws=draws,
        memory=kept,
    )
