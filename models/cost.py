"""What a part of a network costs: parameters, multiply-accumulates, and memory to train it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from models.adapters.frozen import frozen_tensors
from models.adapters.own import own_tensors
from models.adapters.precision import lower_weights
from models.algebra.plans import Plan
from models.networks.build import build_part, layout, submodel
from models.networks.complete import examples
from models.networks.spec import NetworkSpec
from models.predictions import predictions
from models.randomness import seeded_for_others
from models.variants.importance import competing_tensors

_BYTES = 4  # of a float32


@dataclass(frozen=True, slots=True)
class Cost:
    """What a part costs to hold and to run.

    Attributes:
        parameters: number of trainable coordinates; where only the largest weights are kept, these and all norms.
        macs: multiply-accumulate operations of one forward pass on one input, to the deepest exit or to all.
    """

    parameters: int
    macs: int


class _Counting:
    """Adds up the operations of what is called, by PyTorch's own formulas.

    A class apart from the mode itself, because PyTorch wraps what a mode defines so that its first call imports
    torch._dynamo: seconds at the start of every run.
    """

    flops = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count one operation and do it."""
        del types
        out = operation(*args, **(kwargs or {}))
        formula = flop_registry.get(operation._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


class _FlopCounter(_Counting, TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what is done inside."""


@lru_cache(maxsize=64)
def cost_of(spec: NetworkSpec, plan: Plan, *, every_exit: bool = False) -> Cost:
    """Count parameters and MACs of a part (convolutions and matrix products, as PyTorch's counter has them).

    Args:
        spec: the full network.
        plan: the part.
        every_exit: whether everything that predicts is computed, as in training and for the ensemble, not only what
            the deepest exit needs.
    """
    spec = replace(spec, base="")  # its values cost nothing
    # On real zeros: the meta device would import torch._dynamo and sympy, which takes seconds.
    network, two = build_part(spec, plan), examples(spec, 2)
    # Training mode: batch statistics are then not asked for. One input has none, so two are run and halved.
    network.train()
    # Attention as matrix products, which have a formula; what somebody's dropout draws is nobody's.
    counter = _FlopCounter()  # type: ignore[no-untyped-call]
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH), seeded_for_others(0):
        if every_exit:
            predictions(network, two)
        else:
            network(two)
    parameters = sum(one.numel() for one in (*network.parameters(), *own_tensors(network).values()))
    if plan.keep < 1:
        competing = sum(submodel(spec, plan)[name].numel for name in competing_tensors(layout(spec)))
        parameters -= competing - ceil(plan.keep * competing)
    return Cost(parameters, counter.flops // 4)


@lru_cache(maxsize=64)
def training_bytes(
    spec: NetworkSpec, plan: Plan, batch_size: int, *, whole: bool = False, reckoned: bool = False
) -> int:
    """Estimate the memory that training a part takes, beside the process itself.

    Five vectors of the length of what is trained (received, weights, gradients, momentum, difference), four of what is
    trained and not sent, the tensors that are held and not trained once, in as many bits as they are held in, and of
    those in fewer bits the largest as float32, what one batch keeps for its backward pass (counted: nothing before the
    first layer that is trained), and as much again as its largest layer keeps, for the gradients under way.

    Args:
        spec: the full network.
        plan: the part.
        batch_size: examples a step.
        whole: whether the whole state is received and sliced by the device, which holds it meanwhile.
        reckoned: whether what a batch keeps is reckoned from what two and three inputs of zeros keep, of which it is a
            linear function. The meta device needs no memory for it, but imports torch._dynamo, which takes seconds.

    Returns:
        Bytes.
    """
    count = max(2, batch_size)  # a batch of one has no statistics
    device = torch.device("cpu" if reckoned else "meta")
    with device:
        network = build_part(replace(spec, base=""), plan)
        if reckoned:
            two, three = _kept(network, examples(spec, 2)), _kept(network, examples(spec, 3))
            kept = [least + (count - 2) * (more - least) for least, more in zip(two, three, strict=True)]
        else:
            kept = _kept(network, examples(spec, count))
    numel = submodel(spec, plan).numel
    state = layout(spec).parameters if whole else 0
    beside = own_tensors(network).values()
    state += 4 * sum(one.numel() for one in beside)
    base = sum(tensor.nbytes for tensor in frozen_tensors(network).values())
    base += _BYTES * max((one.codes.numel() for one in lower_weights(network).values()), default=0)
    return _BYTES * (5 * numel + state) + base + sum(kept) + max(kept, default=0)


@lru_cache(maxsize=64)
def base_bytes(spec: NetworkSpec, plan: Plan) -> int:
    """Bytes of what a part's device holds of a base, in as many bits as it holds it in."""
    network = build_part(replace(spec, base=""), plan)
    return sum(tensor.nbytes for tensor in frozen_tensors(network).values())


def _kept(network: nn.Module, inputs: Tensor) -> list[int]:
    """Bytes of every tensor that a forward pass keeps for the backward pass, beside the network's own."""
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no storage's number is given twice
    held = (*network.state_dict().values(), *frozen_tensors(network).values())
    own = {tensor.untyped_storage()._cdata for tensor in held}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    network.train()
    with saved_tensors_hooks(note, lambda tensor: tensor), sdpa_kernel(SDPBackend.MATH), seeded_for_others(0):
        predictions(network, inputs)
    return [storage.nbytes() for storage in kept.values()]
