"""The norm of a difference as if it were a gradient."""

from __future__ import annotations

from math import sqrt

import torch

from models.axes import Layout
from models.submodel import Submodel
from strategies.guard import Accepted


def parameter_norm(layout: Layout, part: Submodel, reply: Accepted) -> float:
    """L2 norm over all parameters of a part together.

    Running statistics of batch norm are in the difference too, but nobody descended along them. Without any, which is
    the usual case, this is the norm that the guard has found already.

    Args:
        layout: of the global state; says which tensors are statistics.
        part: what the client held.
        reply: its reply.
    """
    statistics = {name for name, block in part.items() if layout.tensors[block.source].buffer}
    if not statistics:
        return reply.norm
    pieces = part.split(reply.difference)
    parameters = [piece.flatten() for name, piece in pieces.items() if name not in statistics]
    return sqrt(sum(torch.dot(piece, piece).item() for piece in parameters))
