"""Clients that a process is asked about one after the other, trained side by side: some networks of one shape as one.

A step of a small network is setting up, not arithmetic, and one of several networks takes little longer. An engine with
several requests in hand says so (`expect`); the first of them that is answered trains them all, and the others find
what they have learnt. All else of a message is done when its turn comes.

What a client learns is the same bit for bit (see `client_app.fused_training`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from logging import DEBUG, WARNING
from time import perf_counter

import torch
from flwr.app import Array, ConfigRecord, Context, RecordDict
from flwr.common import log
from torch import Tensor

from client_app.device import data_of, node_id
from client_app.fused_training import Learner, train_fused
from client_app.model_cache import LocalModel
from client_app.objectives.cross_entropy import absent_for
from client_app.training import Trained
from data import Augmentation, NodeData
from models.algebra.plans import Plan
from models.device import device_named
from models.fused.shapes import largest_outputs
from models.fused.structure import layers_of
from models.networks.build import build_part, shape_of, submodel
from models.networks.spec import NetworkSpec
from models.randomness import torch_generator
from protocol import REQUEST, TrainRequest, read_request
from protocol.arrays import same_memory
from protocol.training_way import why_loop

MOST = 8  # clients; more gain little
_FOR_ONE_DEVICE = frozenset({"nonce", "counted", "codec_base", "secure"})  # fields of a request to train
# Numbers of the largest layer's outputs, of all clients together: what a core's own cache holds of float32.
_NUMBERS = 1 << 18
_PARAMETERS = 1 << 20  # of all clients together: what was learnt before its turn, and from what, is kept until then


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    request: TrainRequest
    state: Array
    context: Context


@dataclass(frozen=True, slots=True, kw_only=True)
class Early:
    """What a client that was trained before its turn began from and has learnt.

    Attributes:
        start, learnt: its part, flat.
        trained: what it came to.
        seconds: that its training took, with its share of what was done for the group.
    """

    start: Tensor
    learnt: Tensor
    trained: Trained
    seconds: float


@dataclass(slots=True)
class _Expected:
    """Who will be asked, and those who were trained before their turn, by nonce."""

    asked: dict[str, _Asked] = field(default_factory=dict)
    trained: dict[str, Early] = field(default_factory=dict)


_expected = _Expected()


def likeness(content: RecordDict) -> Hashable:
    """What requests to train say that ask several devices for the same: all but what is meant for one of them.

    Read is nothing, only compared; None is no request.
    """
    fields = content.get(REQUEST)
    if not isinstance(fields, ConfigRecord):
        return None
    said = ((name, tuple(value) if isinstance(value, list) else value) for name, value in fields.items())
    return frozenset(one for one in said if one[0] not in _FOR_ONE_DEVICE)


def most_together(content: RecordDict) -> int:
    """How many clients that are asked for this may be trained side by side; 1 is each by itself.

    Args:
        content: a request to train; all that is read of it is checked when its turn comes.
    """
    try:
        request, _ = read_request(TrainRequest, content)
        return _most(request) if _plain(request) else 1
    except Exception:  # whatever is wrong is said in its own turn
        return 1


def expect(asked: Sequence[tuple[RecordDict, Context]]) -> None:
    """Say whom this process will be asked about, besides those it was told before, until `expect_nobody`.

    Args:
        asked: requests to train, and where.
    """
    for content, context in asked:
        try:
            request, state = read_request(TrainRequest, content)
            if _plain(request):
                _expected.asked[request.nonce] = _Asked(request=request, state=state, context=context)
        except Exception:  # whatever is wrong is said in its own turn
            log(DEBUG, "a request is answered alone", exc_info=True)


def expect_nobody() -> None:
    """Say that nobody of them will be asked any more."""
    _expected.asked.clear()
    _expected.trained.clear()


def learner_of(request: TrainRequest, data: NodeData, node: int) -> Learner:
    """What a client brings to its training.

    Args:
        request: what is asked.
        data: its examples.
        node: its id.
    """
    return Learner(
        examples=data.train,
        draws=torch_generator(request.seed, request.round_number, node, "batches"),
        absent=absent_for(request.objective.name, request.network.classes, data.labels),
    )


def trained_early(request: TrainRequest) -> Early | None:
    """What the client of a request has learnt, if that was before its turn; to be asked once."""
    return _expected.trained.pop(request.nonce, None)


def train(
    model: LocalModel,
    request: TrainRequest,
    state: Array,
    *,
    data: NodeData,
    node: int,
    augmentation: Augmentation | None,
) -> tuple[Trained, float]:
    """Train what is loaded, and with it those who are expected and are like it.

    Args:
        model: with the client's part in it; then with what it has learnt.
        request: what is asked.
        state: what came with it.
        data: the client's examples.
        node: its id.
        augmentation: what happens to the images of a batch.

    Returns:
        What it came to, and the seconds of it that were not spent in this call: less than 0 where some of them were
        spent on others.
    """
    asked = _expected.asked.pop(request.nonce, None)
    state = state if asked is None else asked.state  # where an engine copies what it hands over, that is shared no more
    steps = partial(train_fused, model.fused, optimiser=request.optimiser, work=request.work, augmentation=augmentation)
    own, others = model.start, list[_Other]()
    if _expected.asked and _plain(request):
        own = model.start_to_keep()
        others = _others(model, request, state, own)
    if others:
        began, starts = perf_counter(), _rows(own, others)
        learners = [learner_of(request, data, node), *(other.learner for other in others)]
        flats = starts.new_empty(starts.shape)
        try:
            found = steps(starts=starts, learners=learners, into=flats)
        except Exception as error:  # whose it is, each one's own turn will show
            log(WARNING, "clients are trained alone: %s", error)
        else:
            took = _seconds(found, perf_counter() - began)
            each = list(zip(starts, flats, found, took, strict=True))
            for other, (start, learnt, trained, seconds) in zip(others, each[1:], strict=True):
                early = Early(start=start, learnt=learnt, trained=trained, seconds=seconds)
                _expected.trained[other.nonce] = early
            model.take_over(request.network, request.plan, start=own, learnt=flats[0])
            return found[0], -sum(took[1:])
    flats, learner = model.flat[None], learner_of(request, data, node)
    (trained,) = steps(starts=flats, learners=[learner], into=flats)
    return trained, 0.0


def _seconds(trained: Sequence[Trained], spent: float) -> list[float]:
    """Seconds of each of those that were trained together: its own, and an even share of the rest."""
    computing = [one.seconds_computing for one in trained]
    rest = (spent - sum(computing)) / len(trained)
    return [own + rest for own in computing]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Other:
    """A client that is trained before its turn.

    Attributes:
        nonce: of its request.
        start: its part, flat.
        learner: what it brings.
    """

    nonce: str
    start: Tensor
    learner: Learner


def _rows(own: Tensor, others: Sequence[_Other]) -> Tensor:
    """What clients begin from, a row each [K, P]; the same memory K times where they all begin from that."""
    if all(other.start is own for other in others):
        return own.expand(len(others) + 1, -1)
    return torch.stack([own, *(other.start for other in others)])


def _others(model: LocalModel, request: TrainRequest, state: Array, own: Tensor) -> list[_Other]:
    """Those that can be trained with a client: asked for the same part, by the same rule; they are expected no more.

    Args:
        model: with the client's part in it.
        request: what it is asked.
        state: what came with that.
        own: its part, flat.
    """
    found, wanted, most = list[_Other](), _same(request), _most(request)
    for nonce, asked in list(_expected.asked.items()):
        if len(found) == most - 1:
            break
        try:
            said = asked.request
            if _same(said) != wanted:
                continue
            data = data_of(asked.context, said.facts)
            start = own
            part, wished = (said.network, said.plan, said.sliced), (request.network, request.plan, request.sliced)
            if part != wished or not same_memory(asked.state, state):
                start = torch.empty_like(own)
                model.cut(said.network, said.plan, asked.state, sliced=said.sliced, out=start)
            found.append(_Other(nonce=nonce, start=start, learner=learner_of(said, data, node_id(asked.context))))
        except Exception:  # whatever is wrong is said in its own turn
            log(DEBUG, "a client is trained alone", exc_info=True)
        del _expected.asked[nonce]
    return found


def _plain(request: TrainRequest) -> bool:
    """Whether nothing of a device's memory, and no choice of its own, goes into what is trained."""
    if request.clusters is not None or request.compressed is not None or request.dynamic_regulariser is not None:
        return False
    objective = request.objective.name
    if why_loop(request.network, request.plan, request.work, objective, regularised=False):
        return False
    return device_named(request.work.device).type == "cpu"


def _same(request: TrainRequest) -> Hashable:
    """What has to be the same of clients side by side."""
    shape = shape_of(request.network, request.plan)
    return shape, request.work, request.optimiser, request.objective.name, request.seed, request.round_number


def _most(request: TrainRequest) -> int:
    return most_of(request.network, request.plan, request.work.batch_size)


@lru_cache(maxsize=128)
def most_of(network: NetworkSpec, plan: Plan, batch_size: int) -> int:
    """How many clients of a part may be trained side by side; where backward passes of its own cover it."""
    with torch.device("meta"):  # its numbers are of no interest
        layers = layers_of(build_part(network, plan))
    largest, parameters = largest_outputs(layers, network.input_shape), submodel(network, plan).numel
    return max(1, min(MOST, _NUMBERS // (batch_size * largest), _PARAMETERS // parameters))
