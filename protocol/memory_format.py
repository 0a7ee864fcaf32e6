"""Where the loop over autograd begins with channels innermost in memory: on CPUs narrow convolutions are faster so.

Where convolutions become wide, features are turned on their way (`models.networks.memory_order`).

Decided, as the way of training is (`protocol.training_way`), by what the network declares and by the request alone, so
every engine and a resumed run come to the same. Results differ in the order of float32 sums.
"""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import nn

from models.algebra.plans import Plan
from models.networks.build import build_part, shape_of
from models.networks.builder import Conv2d
from models.networks.memory_order import MOST_CHANNELS, is_narrow, skips_positions
from models.networks.registry import NETWORKS
from models.networks.spec import NetworkSpec
from models.recent import Recent
from protocol.requests import Work
from protocol.training_way import AUTO

_known = Recent[Hashable, bool](128)


def memory_format(network: NetworkSpec, plan: Plan, work: Work, device: torch.device) -> torch.memory_format:
    """How the loop has a batch of inputs in memory; on other devices than CPUs nothing was measured.

    Args:
        network: the full network.
        plan: the part.
        work: how to compute.
        device: where.
    """
    last = device.type == "cpu" and channels_last(network, plan, work)
    return torch.channels_last if last else torch.contiguous_format


def channels_last(network: NetworkSpec, plan: Plan, work: Work) -> bool:
    """Whether the loop has a part's inputs, and with them its first features, with channels innermost.

    Args:
        network: the full network; of an ordinary module nothing is known of how it reads its features.
        plan: the part.
        work: how to compute.
    """
    if work.train_as != AUTO or len(network.input_shape) != 3 or network.vocabulary:
        return False
    if network.input_shape[0] == 1:  # of a single channel both orders are the same to PyTorch
        return False
    if network.adapter is not None or plan.holds_more or NETWORKS[network.name].prove is not None:
        return False
    return _known(shape_of(network, plan), lambda: _begins_narrow(network, plan))


def _begins_narrow(network: NetworkSpec, plan: Plan) -> bool:
    """Whether the first convolutions are narrow, and none that follow wide ones are again: features turn once.

    Nor may there be a convolution of somebody's own that could meet this order in few channels, here or in a narrower
    part that is trained in its place (`skips_positions`).
    """
    with torch.device("meta"):  # its numbers are of no interest
        found = [one for one in build_part(network, plan).modules() if isinstance(one, nn.Conv2d)]
    back = any(one.in_channels > MOST_CHANNELS >= one.out_channels for one in found)
    unsafe = any(skips_positions(one) for one in found if not isinstance(one, Conv2d))  # ours know what to do
    return bool(found) and is_narrow(found[0]) and not back and not unsafe
