"""What a reply goes through before it is added: stages `(assignment, update) -> update`, one for each concern.

A stage that finds a reply wanting raises `Rejected` or `ValueError`, and the reply is as if it had never come: no stage
changes anything outside of the update that it returns, but for what it counts for the report. What else a stage is
told comes before the two, and the runner binds it; a stage that has nothing to do in a run is not among its stages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf, isfinite

from flwr.app import Message

from models.algebra.average import norm_of
from models.algebra.token_rows import rows_of
from protocol import DIFFERENCE, NodeId
from protocol.codecs import NOTHING
from protocol.secure.messages import RECORD, SumRefusal
from strategies.clustering.base import Clustering
from strategies.context import RoundContext
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.update import MOST_EXAMPLES, Blamed, ClientUpdate, Rejected, answer_of, content_of
from strategies.method import Method
from strategies.transport.uplink import UplinkDecoder
from strategies.virtual.clock import VirtualClock

Stage = Callable[[TrainAssignment, ClientUpdate], ClientUpdate]

_MOST = {"accuracy": 1.0, "seconds": inf, "seconds-computing": inf, "loss-square": inf}


def authenticate(assignment: TrainAssignment, message: Message | None, bytes_down: int) -> ClientUpdate:
    """Read the reply to a request; None if there was none.

    Raises:
        Rejected: it did not come, is an error, answers something else, or has no usable number of examples.
        Blamed: it says that other members of its group cannot be read.
    """
    if assignment.secure is not None and message is not None and not message.has_error() and RECORD in message.content:
        raise Blamed(answer_of(message, assignment.nonce, SumRefusal.from_record).unreadable)
    reply = content_of(message, assignment.nonce, DIFFERENCE)
    assert reply.array is not None  # content_of asked for one
    examples = reply.metrics.get("num-examples")
    if examples is None or not 0 < examples <= MOST_EXAMPLES:
        raise Rejected(f"num-examples = {examples}: allowed is more than 0 and at most {MOST_EXAMPLES}")
    return ClientUpdate(metrics=reply.metrics, array=reply.array, bytes_down=bytes_down, bytes_up=len(reply.array.data))


def left_out(nodes: Mapping[NodeId, int], assignment: TrainAssignment, update: ClientUpdate) -> ClientUpdate:
    """Refuse whatever comes from some nodes."""
    if assignment.node.id in nodes:
        raise Rejected(f"left out since the loss exploded in round {nodes[assignment.node.id]}")
    return update


def within_plan(assignment: TrainAssignment, update: ClientUpdate) -> ClientUpdate:
    """A reply that says no more examples and steps than the node told and was told, and no number out of its range.

    These are no guesses, so nothing is set here: what a node was told bounds what it can have done.
    """
    most = {"num-examples": float(assignment.node.examples), "steps": float(assignment.planned), **_MOST}
    numbers = {key: value for key, value in update.metrics.items() if key in most}
    said = {key: bound for key, value in numbers.items() if (bound := max(0.0, min(value, most[key]))) != value}
    return update.with_metrics(said) if said else update


def decode(uplink: UplinkDecoder, assignment: TrainAssignment, update: ClientUpdate) -> ClientUpdate:
    """Decode the difference as the part and the codec imply.

    Raises:
        WireError: it is not exactly that.
    """
    if update.array is None:
        return update  # it has been, when it arrived
    memory = uplink.memory(assignment.node.id, assignment.part) if uplink.remembers else NOTHING
    decoded = uplink.codec.decode(update.array, assignment.part.lengths, memory)
    norm = norm_of(decoded.flat)
    return replace(
        update,
        array=None,
        difference=decoded.flat,
        norm=norm,
        norm_received=norm,
        entropy_bytes=decoded.entropy_bytes,
        remember=decoded.remember,
        span=decoded.span,
    )


def virtual_time(
    clock: VirtualClock, round_number: int, assignment: TrainAssignment, update: ClientUpdate
) -> ClientUpdate:
    """Say what the reply took a virtual device; refuse what would have come too late."""
    return clock.timed(assignment, assignment.asked_in or round_number, update)


def choose_cluster(
    context: RoundContext, method: Method, clusters: Clustering, assignment: TrainAssignment, update: ClientUpdate
) -> ClientUpdate:
    """Find the global state that the reply changes, and what the node held of it; where there can be several."""
    cluster, part = clusters.target(assignment, update), assignment.part
    if cluster is None:
        if not isfinite(update.norm):
            raise Rejected("the difference is not finite")
    elif len(assignment.clusters) > 1:  # it was not known which one the node would take
        part = method.part(context, assignment.plan, clusters.states[cluster].tensors)
    return replace(update, cluster=cluster, part=part)


def weigh(context: RoundContext, method: Method, assignment: TrainAssignment, update: ClientUpdate) -> ClientUpdate:
    """Say how much the reply counts, and what of it: by the method, the aggregation rule and the selection."""
    numerator, denominator = method.weigh(context, assignment, update)
    tokens, part = method.token_rows(assignment), assignment.part if update.part is None else update.part
    return replace(
        update,
        numerator=numerator * assignment.weight,
        denominator=denominator * assignment.weight,
        rows=method.rows(assignment),
        counted=None if tokens is None else rows_of(part, context.layout, tokens),
    )
