"""Sends the requests to train and lets the replies be taken: in the round's order, as they come, or by virtual time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

import torch
from flwr.app import Message
from flwr.serverapp import Grid

from models.device import threads
from strategies.method import Method
from strategies.round import stages
from strategies.round.aggregator import RoundAggregator
from strategies.round.assignments import Round
from strategies.round.pieces import Pieces
from strategies.virtual.clock import VirtualClock


def aggregator_of(current: Round, *, method: Method, pieces: Pieces) -> RoundAggregator:
    """What takes the replies of a round: every one passes these stages, is added, and counted.

    Args:
        current: the round, whose requests are made.
        method: weighs the replies.
        pieces: of the run; what has nothing to do in it is left out.
    """
    context, secure, clusters, bounds = current.context, current.secure, pieces.clusters, pieces.norm_bounds
    stale, aged, flying = pieces.buffer.hooks(context.round_number) if pieces.buffer is not None else ([], [], [])
    return RoundAggregator(
        report=current.report,
        assignments=[*current.assignments, *flying],
        messages=current.messages,
        bytes_down=current.bytes_down,
        first_stages=[
            *([partial(stages.left_out, current.left_out)] if current.left_out else []),
            stages.within_plan,
            *([partial(stages.decode, pieces.uplink)] if secure is None else []),
            *([partial(stages.virtual_time, pieces.clock, context.round_number)] if pieces.clock is not None else []),
            *([partial(stages.choose_cluster, context, method, clusters)] if clusters.chooses else []),
        ],
        stages=[*([bounds.limited] if bounds.on else []), partial(stages.weigh, context, method), *stale],
        hear=bounds.hear,
        heard_enough=partial(bounds.heard_enough, current.assignments),
        doubts=bounds.doubts,
        states=clusters.states,
        vector=pieces.selection.vector if pieces.selection.of_differences else None,
        listeners=[
            *([bounds.accepted] if bounds.on else []),
            *([clusters.note] if clusters.WATCHES else []),
            *aged,
        ],
        sums=None if secure is None else secure.take,
        guard=context.settings.guard.guard,
    )


def ask_training(
    grid: Grid,
    current: Round,
    *,
    method: Method,
    pieces: Pieces,
    seconds: float,
    meanwhile: Callable[[], None] | None,
) -> RoundAggregator:
    """Ask the nodes of a round to train, and write into its report where the time went; what took their replies.

    Args:
        grid: where the nodes are.
        current: requests, in the round's order, and what they ask. It has no requests any more when they are sent: the
            state in them is not held beside the replies.
        method: weighs the replies.
        pieces: of the run.
        seconds: the longest that is waited.
        meanwhile: called once when the requests are sent. What it takes does not count as training.
    """
    aggregator, settings = aggregator_of(current, method=method, pieces=pieces), current.context.settings
    current.report.seconds["train"] = 0.0
    messages, usual = current.messages, torch.get_num_threads()
    if not messages and pieces.buffer is None:
        if meanwhile is not None:
            meanwhile()
        return aggregator
    report, clock, asked, began = current.report, pieces.clock, current.assignments, perf_counter()
    ask = partial(
        pieces.patience.ask,
        whom=[one.node.id for one in asked],
        tiers={one.tier for one in asked},
        number=report.number,
        seconds=seconds,
        odd=aggregator.odd,
        sent=messages.clear if meanwhile is None else partial(_when_sent, messages, meanwhile, usual),
        taken=aggregator.settle,
    )
    enough = (
        (lambda: aggregator.usable >= report.wanted)
        if settings.over_selection > 1 or pieces.buffer is not None
        else None
    )
    came: list[Message | None] = [None] * len(messages)
    # Simulated clients have the other cores, and threads that wait for each other on busy cores take longer than
    # one: 1.2 s instead of 0.2 for 50 replies of 6.5 MB.
    with threads(1):
        if enough is None or clock is None:
            waited = ask(grid, messages, aggregator.take, enough=enough)
        else:  # which replies are the first, virtual time says
            waited = ask(grid, messages, came.__setitem__)
            if pieces.buffer is None:
                waited.withdrawn = _take_first(current, clock, aggregator, came=came, enough=enough)
            else:
                new = pieces.buffer.board(asked, came, current.bytes_down)
                report.wanted = min(settings.buffer_size, len(new) + len(pieces.buffer.flights))
                pieces.buffer.fly(new, aggregator.take_read, enough=enough)
        aggregator.release()
    report.waiting["train"] = waited.to_row()
    report.withdrawn = [asked[i].node.id for i in waited.withdrawn]
    if clock is None:
        aggregator.note_transport(waited.arrived, waited.unseen, pieces.patience.beside)
    report.seconds["train"] = perf_counter() - began - waited.busy - report.seconds.get("fold", 0.0)
    return aggregator


def _when_sent(messages: list[Message], meanwhile: Callable[[], None], usual: int) -> None:
    """Let go of the requests; then do the rest with as many threads as ever, since sums of a score depend on them."""
    messages.clear()
    with threads(usual):
        meanwhile()


def _take_first(
    current: Round,
    clock: VirtualClock,
    aggregator: RoundAggregator,
    *,
    came: Sequence[Message | None],
    enough: Callable[[], bool],
) -> list[int]:
    """Take replies in the order of their virtual arrival until there are enough; return who is left over."""
    number = current.report.number
    each = zip(current.assignments, came, current.bytes_down, strict=True)
    arrival = [clock.foresee(assignment, number, reply, down) for assignment, reply, down in each]
    rest = sorted(range(len(came)), key=arrival.__getitem__)
    while rest and not enough():
        aggregator.take(rest[0], came[rest[0]])
        del rest[0]
    return rest
