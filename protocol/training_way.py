"""Which of two ways a device trains what a request asks for: one answer for everybody who asks.

`train-as = "auto"` takes backward passes of their own (`models.fused`) wherever these cover everything that a request
says, and the loop over autograd elsewhere. It is decided by what the network declares and by the request, so every
engine, a resumed run, and the server that writes it down come to the same.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache

import torch
from torch import nn

from models.algebra.plans import Plan
from models.fused.shapes import convolution_macs
from models.fused.structure import Affine, NotCoveredError, layers_of
from models.losses import CLASSIFICATION
from models.networks.build import build_part, shape_of
from models.networks.registry import NETWORKS
from models.networks.spec import NetworkSpec
from models.recent import Recent
from protocol.requests import Optimiser, Work

AUTO, LOOP = WAYS = ("auto", "loop")
FUSED_OBJECTIVES = ("cross-entropy", "masked-cross-entropy")
# Multiply-accumulates of a step's convolutions, forward, beyond which PyTorch's own are at least as fast: what they
# need to be set up no longer counts, and they need no patches. Measured on CPUs with AVX2; a constant, because whoever
# decides must not depend on a machine.
MOST_MACS = 1 << 27
# Weights of a linear layer beyond which nothing is gained at batches of 32 and more, and much is lost at 10: examples
# stand in the innermost dimension here, where few of them fill no vector. Measured on the same CPUs.
MOST_LINEAR = 1 << 18
_known, _is_wide = Recent[Hashable, str](128), Recent[Hashable, bool](128)


@lru_cache(maxsize=128)  # requests of a run differ in little
def why_loop(network: NetworkSpec, plan: Plan, work: Work, objective: str, *, regularised: bool) -> str:
    """Why a part is trained by the loop, in a few words; "" where it is not.

    Args:
        network: the full network.
        plan: the part.
        work: how to compute.
        objective: what to optimise, by name.
        regularised: whether gradients are changed before every step (FedDyn).
    """
    if work.train_as != AUTO:
        return f"train-as is {work.train_as}"
    if objective not in FUSED_OBJECTIVES:
        return f"the objective {objective}"
    if network.task != CLASSIFICATION:
        return f"the task {network.task}"
    if work.mixed_precision:
        return "mixed precision"
    if work.adversarial is not None:
        return "adversarial training"
    if regularised:
        return "a regulariser of gradients"
    if plan.keep != 1:
        return "weights that are masked"
    if network.adapter is not None or plan.holds_more:
        return "a network that is frozen in part"
    if NETWORKS[network.name].prove is not None:
        return "a network whose axes were found, not declared"
    # Plans differ in which units they keep, by device and round; it is the shape that counts.
    shape = shape_of(network, plan), work.batch_size
    return _known(shape, lambda: _why_not_covered(network, plan, work.batch_size))


def steps_in_layers(
    network: NetworkSpec, plan: Plan, work: Work, objective: str, optimiser: Optimiser, *, regularised: bool
) -> bool:
    """Whether the loop has wide linear layers take their steps in the backward pass (`client_app.stepped_layers`).

    Where gradients of a built-in network, which uses each layer once, are asked for once a step, and a step of plain
    SGD needs nothing else.

    Args:
        network, plan, work, objective, regularised: see `why_loop`.
        optimiser: the rule.
    """
    if work.train_as != AUTO or work.mixed_precision or work.adversarial is not None or regularised:
        return False
    if optimiser.momentum or optimiser.weight_decay or optimiser.clip_norm or optimiser.proximal:
        return False
    if network.adapter is not None or plan.keep != 1 or plan.holds_more or objective not in FUSED_OBJECTIVES:
        return False
    if network.name not in list(NETWORKS):  # what is installed, or named by a path, may use a weight as it likes
        return False
    return _is_wide(shape_of(network, plan), lambda: _widest(network, plan) > MOST_LINEAR)


def _widest(network: NetworkSpec, plan: Plan) -> int:
    with torch.device("meta"):  # its numbers are of no interest
        layers = [one for one in build_part(network, plan).modules() if isinstance(one, nn.Linear)]
    return max((layer.weight.numel() for layer in layers), default=0)


def _why_not_covered(network: NetworkSpec, plan: Plan, batch_size: int) -> str:
    try:
        with torch.device("meta"):  # its numbers are of no interest
            layers = layers_of(build_part(network, plan))
        macs = batch_size * convolution_macs(layers, network.input_shape)
    except NotCoveredError as found:
        return str(found)
    if macs > MOST_MACS:
        return f"convolutions of {macs / 1e6:.0f} M multiplications a step"
    widest = max((layer.weight.numel() for layer in layers if isinstance(layer, Affine)), default=0)
    return f"a linear layer of {widest:,} weights" if widest > MOST_LINEAR else ""
