"""What a device of somebody else's answers: its data as functions of the context, its training as one of the user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

import torch
from flwr.app import Array, Context
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from client_app.allowed import known_codecs
from client_app.base import digest_of_base, require_base
from client_app.client_state import ClientState
from client_app.cluster_choice import load_fitting, received_states
from client_app.downlink import whole_state
from client_app.feddyn import FedDynRegulariser
from client_app.initial_loss import initial_gradient, initial_loss
from client_app.local_scores import local_scores
from client_app.model_cache import LocalModel, check_size, local_model
from client_app.objectives import ObjectiveContext, Settles, objective
from client_app.secure.masked import joined, masked
from client_app.served_data import ServedData
from client_app.statistics import moments_of
from data.given import inputs_of, labels_of
from models.adapters.cores import fold_scales
from models.adapters.dropout import dropping
from models.adapters.own import as_parameters
from models.device import device_named, threads
from models.errors import SettingError
from models.networks.build import layout, own_layout
from models.randomness import generator, torch_generator
from models.statistics import needs_statistics, set_statistics
from protocol import (
    ClusterStates,
    Hello,
    HelloRequest,
    LossRequest,
    NodeId,
    PartRequest,
    Reply,
    Scalar,
    StatisticsRequest,
    TrainRequest,
    WireError,
    encode,
    id_of_address,
)
from protocol.codecs import NO_DRAWS, OfPart, codec_from

# Objectives that are no more than what a plain training loop does.
_PLAIN = ("cross-entropy", "masked-cross-entropy")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainTask:
    """What the server asks of one round of local training.

    Attributes:
        round_number: 1-based.
        learning_rate, momentum, weight_decay, clip_norm, proximal: of the run's SGD (see `protocol.Optimiser`); an
            optimiser of one's own may use them or not.
        epochs: passes over the data.
        steps: optimiser steps in place of epochs; 0 is off.
        batch_size: examples a step.
        device: where the module is.
        loss: (inputs, labels) → (loss, logits), the run's objective on the module. Methods with an objective of their
            own (distillation, widths drawn by batch) train nothing without it.
    """

    round_number: int
    learning_rate: float
    momentum: float
    weight_decay: float
    clip_norm: float
    proximal: float
    epochs: int
    steps: int
    batch_size: int
    device: torch.device
    loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


# (module, task, context) → mean training loss
TrainFunction = Callable[[nn.Module, TrainTask, Context], float]


def _batch(inputs: object, labels: object) -> tuple[Tensor, Tensor]:
    """What a train function gives its loss.

    Raises:
        WireError: it is no batch of examples.
    """
    try:
        # A tensor may be of another precision, as the module is then.
        return inputs if isinstance(inputs, Tensor) else inputs_of(inputs), labels_of(labels)
    except ValueError as error:
        raise WireError(f"task.loss(inputs, labels): allowed is {error}") from None


def node_of(context: Context) -> NodeId:
    """Stable id of a device: its partition where it has one, else flwr's node id, which a registered key keeps."""
    partition = context.node_config.get("partition-id")
    return (
        partition if isinstance(partition, int) and not isinstance(partition, bool) else id_of_address(context.node_id)
    )


class ServedDevice(ServedData):
    """Somebody else's device: what it answers of what it has."""

    __slots__ = ()

    def hello(self, request: HelloRequest, context: Context) -> Hello:
        """Say who this device is; the tier is what its node config says.

        Raises:
            WireError: labels or tokens are asked for, and it does not tell them.
            SettingError: the run's codec is an import path that this device does not follow.
        """
        if request.labels and not self.labels(context):
            raise WireError("the method asks which labels this device has: serve(…, labels=…) or data")
        return Hello(
            node=node_of(context),
            examples=self.size(context),
            labels=self.labels(context) if request.labels else (),
            tokens=self.examples(context).tokens if request.tokens else (),
            tier=str(context.node_config.get("tier", "")),
            codecs=known_codecs(context),
            base="" if request.base is None else digest_of_base(request.base.network, request.base.seed, context),
        )

    def train(self, function: TrainFunction, request: TrainRequest, state: Array, context: Context) -> Reply:
        """Train the part by the user's function and reply with the difference."""
        if request.work.adversarial is not None and request.work.adversarial.weight:
            raise WireError("this ClientApp trains on clean inputs only: adversarial = 0")
        began, node, number = perf_counter(), node_of(context), request.round_number
        memory = ClientState(context, node, number, checkpoint=request.checkpoint, counted=request.counted)
        codec, work = codec_from(request.codec), request.work
        session = None if request.secure is None else joined(request.secure, context)
        if request.compressed is not None:
            state = whole_state(request.compressed, request.network, state, memory)
        with threads(work.threads):
            model, measured = self._loaded(request, state, context)
            setting = self._setting(request, request.objective.settings, model, memory, context)
            if work.measure.initial_loss:
                examples = self.examples(context)
                measured["loss-before"] = initial_loss(request.objective.name, setting, examples, model.device)
            regulariser = None
            if request.dynamic_regulariser is not None:
                regulariser = FedDynRegulariser(model, request.network, request.dynamic_regulariser.alpha, memory)
            with dropping(model.module, torch_generator(request.seed, request.round_number, node, "adapter dropout")):
                loss, steps, settled = self._run(function, request, model, setting, regulariser, context)
            measured |= settled
            if regulariser is not None:
                regulariser.keep()
                measured["began-anew"] = float(regulariser.began_anew)
            difference = model.difference()
            if work.measure.norm:
                measured["norm"] = model.parameter_norm(difference)
            noise = generator(request.seed, request.round_number, node, "codec") if codec.DRAWS else NO_DRAWS
            if request.secure is not None and session is not None:  # the loss goes into the sum, too
                encoded = masked(request.secure, session, context, difference, numbers={"loss": loss}, draws=noise)
            else:
                sizes = [block.numel for block in model.part.values()]
                seen_by_codec = OfPart(memory, model.part, layout(request.network).shapes)
                encoded = codec.encode(difference, sizes, noise, seen_by_codec, request.codec_base)
                measured["loss"] = loss
        measured |= {"steps": float(steps), "seconds": perf_counter() - began}
        return Reply(request.nonce, encoded, {"num-examples": float(self.size(context)), **measured})

    def _run(
        self,
        function: TrainFunction,
        request: TrainRequest,
        model: LocalModel,
        setting: ObjectiveContext,
        regulariser: FedDynRegulariser | None,
        context: Context,
    ) -> tuple[float, int, Mapping[str, float]]:
        """Call the user's function; mean loss, how many optimiser steps it took, what the objective has to say."""
        optimise, rule, work = objective(request.objective.name, setting), request.optimiser, request.work
        used, steps = [False], [0]

        def loss(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            used[0] = True
            return optimise(*_batch(inputs, labels))

        def before_step(*_: object) -> None:
            steps[0] += 1
            if regulariser is not None:
                regulariser.add_linear()
                regulariser.add_quadratic()

        task = TrainTask(
            round_number=request.round_number,
            learning_rate=rule.learning_rate,
            momentum=rule.momentum,
            weight_decay=rule.weight_decay,
            clip_norm=rule.clip_norm,
            proximal=rule.proximal,
            epochs=work.local_epochs,
            steps=work.local_steps,
            batch_size=work.batch_size,
            device=device_named(work.device),
            loss=loss,
        )
        hook = register_optimizer_step_pre_hook(before_step)
        try:
            with as_parameters(model.module):
                said = float(function(model.module.train(), task, context))
        finally:
            hook.remove()
        fold_scales(model.module)
        if request.objective.name not in _PLAIN and not used[0]:
            raise WireError(f"objective {request.objective.name!r}: the train function has to use task.loss")
        model.collect()
        for parameter in model.module.parameters():
            parameter.grad = None
        return said, max(1, steps[0]), optimise.settle() if isinstance(optimise, Settles) else {}

    def statistics(self, request: StatisticsRequest, state: Array, context: Context) -> Reply:
        """Moments of static batch norm over the training examples."""
        examples = self.examples(context)
        with threads(request.work.threads):
            moments = [
                moments_of(self._loaded(part, state, context)[0].module, examples, part, context)
                for part in request.each()
            ]
        return Reply(request.nonce, encode(torch.cat(moments)), {"num-examples": float(len(examples))})

    def losses(self, request: LossRequest, state: Array, context: Context) -> Reply:
        """Mean loss of the part as it came, on the training examples or on as many as are asked for."""
        examples, node = self.examples(context), node_of(context)
        if 0 < request.batch < len(examples):
            draws = generator(request.seed, request.round_number, node, "probe")
            rows = torch.from_numpy(draws.choice(len(examples), request.batch, replace=False))
            examples = examples.select(rows)
        with threads(request.work.threads):
            model, said = self._loaded(request, state, context)
            loss = initial_loss(request.objective, self._asked(request, model, context), examples, model.device)
        return Reply(request.nonce, None, {"num-examples": float(len(examples)), "loss": loss, **said})

    def gradients(self, request: LossRequest, state: Array, context: Context) -> Reply:
        """Gradient of that loss."""
        examples = self.examples(context)
        with threads(request.work.threads):
            model, _ = self._loaded(request, state, context)
            found = initial_gradient(request.objective, self._asked(request, model, context), examples, model.device)
        return Reply(request.nonce, encode(found), {"num-examples": float(len(examples))})

    def evaluate(self, request: PartRequest, state: Array, context: Context) -> Reply:
        """Score the part on the device's own test examples; statistics are those of its training examples."""
        held_out = self.held_out(context)
        with threads(request.work.threads):
            model, said = self._loaded(request, state, context)
            if needs_statistics(model.module):
                examples = self.examples(context)
                set_statistics(model.module, moments_of(model.module, examples, request, context))
            labels, task = self.labels(context), request.network.task
            scores = local_scores(model.module, held_out, labels, task=task, device=model.device, metric=request.metric)
        return Reply(request.nonce, None, {"num-examples": float(len(held_out))} | scores | said)

    def _loaded(self, request: PartRequest, state: Array, context: Context) -> tuple[LocalModel, dict[str, float]]:
        """The process's model of this shape with the part in it, and which cluster's it is where there are several."""
        try:
            check_size(request.network, request.plan, state, sliced=request.sliced)
        except SettingError as error:
            raise WireError(f"this client: {error}") from None
        if request.network.adapter is not None:
            require_base(request.network, request.seed, context)
        if own_layout(request.network).tensors:
            raise WireError("devices keep factors of this network to themselves, and this device keeps none")
        model = local_model(request.network, request.plan, device_named(request.work.device))
        clusters = request.clusters or ClusterStates()
        states = received_states(request, clusters, state)[-1 if clusters.path else 0 :]
        if len(states) > 1:
            return model, {"cluster": float(load_fitting(model, request, states, self.examples(context)))}
        model.load(request.network, request.plan, states[0], sliced=request.sliced)
        return model, {}

    def _asked(self, request: LossRequest, model: LocalModel, context: Context) -> ObjectiveContext:
        memory = ClientState(context, node_of(context), request.round_number, checkpoint=0, counted=request.counted)
        return self._setting(request, {}, model, memory, context)

    def _setting(
        self, request: PartRequest, told: Mapping[str, Scalar], model: LocalModel, memory: ClientState, context: Context
    ) -> ObjectiveContext:
        labels = self.labels(context) or tuple(range(request.network.classes))
        return ObjectiveContext(
            module=model.module,
            spec=request.network,
            plan=request.plan,
            labels=labels,
            settings=told,
            draws=generator(request.seed, request.round_number, node_of(context), "objective"),
            memory=memory,
        )
