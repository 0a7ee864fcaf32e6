"""An adapted network as an ordinary one: every pair's product is added to the weight that it stands beside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from models.adapters.low_rank import paths_of_pairs, product
from models.adapters.precision import frozen_values
from models.algebra.groups import RANK
from models.algebra.plans import Plan
from models.algebra.rates import without_group
from models.networks.build import build_part, submodel, without_adapter
from models.networks.spec import NetworkSpec


@torch.no_grad()
def merged(spec: NetworkSpec, plan: Plan, state: Mapping[str, Tensor]) -> tuple[NetworkSpec, Plan, dict[str, Tensor]]:
    """What a part computes, without pairs.

    Args:
        spec: of the adapted network, whose base this process holds.
        plan: the part.
        state: the part's tensors.

    Returns:
        Spec, plan and tensors of the network that has the same outputs, up to rounding: weights that are held in fewer
        bits are what they are computed with.
    """
    network = build_part(spec, plan)
    network.load_state_dict(dict(state))
    alone, whole = without_adapter(spec), Plan(depth=plan.depth, own_exit=plan.own_exit, dropped=plan.dropped)
    if spec.adapter is not None and spec.adapter.cut:
        whole = replace(whole, rate=without_group(plan.rate, RANK))
    held = {**frozen_values(network), **network.state_dict()}
    tensors = {name: held[name].clone() for name in submodel(alone, whole)}
    for path in paths_of_pairs(network):
        tensors[f"{path}.weight"] += product(network.get_submodule(path))
    return alone, whole, tensors
