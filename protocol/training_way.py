"""Which of two ways a device trains what a request asks for: one answer for everybody who asks.

`train-as = "auto"` takes backward passes of their own (`models.fused`) wherever these cover everything that a request
says, and the loop over autograd elsewhere. It is decided by what the network declares and by the request, so every
engine, a resumed run, and the server that writes it down come to the same.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache

import torch

from models.algebra.plans import Plan
from models.fused.shapes import convolution_macs
from models.fused.structure import Affine, NotCoveredError, layers_of
from models.losses import CLASSIFICATION
from models.networks.build import build_part, shape_of
from models.networks.registry import NETWORKS
from models.networks.spec import NetworkSpec
from models.recent import Recent
from models.registry import is_path
from protocol.requests import Work

AUTO, LOOP = WAYS = ("auto", "loop")
FUSED_OBJECTIVES = ("cross-entropy", "masked-cross-entropy")
# Multiply-accumulates of a step's convolutions, forward, beyond which PyTorch's own are at least as fast: what they
# need to be set up no longer counts, and they need no patches. Measured on CPUs with AVX2; a constant, because whoever
# decides must not depend on a machine.
MOST_MACS = 1 << 27
# Weights of a linear layer beyond which nothing is gained at batches of 32 and more, and much is lost at 10: examples
# stand in the innermost dimension here, where few of them fill no vector. Measured on the same CPUs.
MOST_LINEAR = 1 << 18
_known = Recent[Hashable, str](128)


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


def steps_in_layers(network: NetworkSpec, plan: Plan, work: Work, objective: str, *, regularised: bool) -> bool:
    """Whether the loop may let layers take their steps in the backward pass (`client_app.stepped_layers`).

    Where gradients of a network that is ours are asked for once a step, and nobody else wants them. Args: see
    `why_loop`.
    """
    plain = work.train_as == AUTO and not work.mixed_precision and work.adversarial is None and not regularised
    ours = network.adapter is None and plan.keep == 1 and not plan.holds_more and not is_path(network.name)
    return plain and ours and objective in FUSED_OBJECTIVES and NETWORKS[network.name].prove is None


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
