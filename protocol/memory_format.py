"""Where the loop over autograd begins with channels innermost in memory: convolutions of few channels are faster so.

Where convolutions are wider, features are turned on their way (`models.networks.memory_order`).

Decided, as the way of training is (`protocol.training_way`), by what the network declares and by the request alone, so
every engine and a resumed run come to the same. Results differ in the order of float32 sums.
"""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import nn

from models.algebra.plans import Plan
from models.networks.build import build_part, shape_of
from models.networks.memory_order import is_narrow
from models.networks.registry import NETWORKS
from models.networks.spec import NetworkSpec
from models.recent import Recent
from protocol.requests import Work
from protocol.training_way import AUTO

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
    return _known(shape_of(network, plan), lambda: _begins_narrow(network, plan))


def _begins_narrow(network: NetworkSpec, plan: Plan) -> bool:
    with torch.device("meta"):  # its numbers are of no interest
        found = [one for one in build_part(network, plan).modules() if isinstance(one, nn.Conv2d)]
    return bool(found) and is_narrow(found[0])
