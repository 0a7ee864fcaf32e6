"""The norm of a difference as if it were a gradient."""

from __future__ import annotations

from math import sqrt

import torch

from models.algebra.axes import Layout
from models.algebra.submodel import Submodel
from strategies.exchange.update import ClientUpdate


def parameter_norm(layout: Layout, part: Submodel, reply: ClientUpdate) -> float:
    """L2 norm over all parameters of a part together.

    Running statistics of batch norm are in the difference too, but nobody descended along them. Without any, which is
    the usual case, this is the norm that the guard has found already.

    What a lossy codec decodes has another norm than the difference: a quantiser's is longer, ‖Q(Δ)‖² is up to 1 + ω
    times ‖Δ‖². There the client says what the norm was before encoding, and its word is taken
    within what the codec allows (`ClientUpdate.span`); beyond that the nearest number counts.

    Args:
        layout: of the global state; says which tensors are statistics.
        part: what the client held.
        reply: its reply.

    Raises:
        ValueError: a client that had to say its norm did not, or it is negative.
    """
    found = _found(layout, part, reply)
    least, most = reply.span
    if least == most:
        return found
    said = reply.metrics.get("norm")
    if said is None or said < 0:
        raise ValueError(f"norm = {said}: allowed is 0 or more")
    return min(max(said, least * found), most * found)


def parameter_share(layout: Layout, part: Submodel, reply: ClientUpdate) -> float:
    """Norm of a difference before encoding over that of what arrived; 1 where nothing did.

    Raises:
        ValueError: as `parameter_norm`.
    """
    found = _found(layout, part, reply)
    return parameter_norm(layout, part, reply) / found if found else 1.0


def _found(layout: Layout, part: Submodel, reply: ClientUpdate) -> float:
    statistics = {name for name, block in part.items() if layout.tensors[block.source].buffer}
    if not statistics:
        return reply.norm
    pieces = part.split(reply.difference)
    parameters = [piece.flatten() for name, piece in pieces.items() if name not in statistics]
    return sqrt(sum(torch.dot(piece, piece).item() for piece in parameters))
