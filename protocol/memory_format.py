"""Where the loop over autograd has channels innermost in memory: convolutions of few channels are faster so on CPUs.

Decided, as the way of training is (`protocol.training_way`), by what the network declares and by the request alone, so
every engine and a resumed run come to the same. Results differ in the order of float32 sums.
"""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import nn

from models.algebra.plans import Plan
from models.networks.build import build_part, shape_of
from models.networks.registry import NETWORKS
from models.networks.spec import NetworkSpec
from models.recent import Recent
from protocol.requests import Work
from protocol.training_way import AUTO

# Channels of the widest convolution up to which a step is faster with them innermost, with batches of 10, by 5 to 20 %
# on CPUs with AVX-512; beyond it is slower by as much. A constant, as whoever decides must not depend on a machine.
MOST_CHANNELS = 128
_known = Recent[Hashable, bool](128)


def channels_last(network: NetworkSpec, plan: Plan, work: Work) -> bool:
    """Whether the loop has a part's inputs, and with them its features, with channels innermost.

    Args:
        network: the full network; of an ordinary module nothing is known of how it reads its features.
        plan: the part.
        work: how to compute.
    """
    if work.train_as != AUTO or len(network.input_shape) != 3 or network.vocabulary:
        return False
    if network.adapter is not None or plan.holds_more or NETWORKS[network.name].prove is not None:
        return False
    return _known(shape_of(network, plan), lambda: _has_narrow_convolutions(network, plan))


def _has_narrow_convolutions(network: NetworkSpec, plan: Plan) -> bool:
    with torch.device("meta"):  # its numbers are of no interest
        found = [one for one in build_part(network, plan).modules() if isinstance(one, nn.Conv2d)]
    return bool(found) and max(one.out_channels for one in found) <= MOST_CHANNELS
