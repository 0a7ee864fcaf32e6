"""Sends the requests to train and lets the replies be taken: in the round's order, as they come, or by virtual time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

import torch
from flwr.app import Message
from flwr.serverapp import Grid

from models.device import threads
from strategies.round.aggregator import RoundAggregator
from strategies.round.assignments import Round
from strategies.round.pieces import Pieces
from strategies.settings import Settings
from strategies.virtual.clock import VirtualClock


def ask_training(
    grid: Grid,
    current: Round,
    *,
    aggregator: RoundAggregator,
    pieces: Pieces,
    settings: Settings,
    seconds: float,
    meanwhile: Callable[[], None] | None,
) -> None:
    """Ask the nodes of a round to train, and write into its report where the time went.

    Args:
        grid: where the nodes are.
        current: requests, in the round's order, and what they ask. It has no requests any more when they are sent: the
            state in them is not held beside the replies.
        aggregator: takes the replies.
        pieces: of the run.
        settings: of the run.
        seconds: the longest that is waited.
        meanwhile: called once when the requests are sent. What it takes does not count as training.
    """
    current.report.seconds["train"] = 0.0
    messages, usual = current.messages, torch.get_num_threads()
    if not messages and pieces.buffer is None:
        if meanwhile is not None:
            meanwhile()
        return
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
