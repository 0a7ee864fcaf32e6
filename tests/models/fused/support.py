"""Networks on one flat vector, and their gradients in both ways."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.algebra.plans import Plan
from models.fused.buffers import Memory, places_of
from models.fused.coordinates import Coordinates
from models.fused.layers import one_hot
from models.fused.network import FusedNetwork
from models.fused.structure import layers_of
from models.networks.build import build, submodel
from models.networks.spec import NetworkSpec
from models.randomness import torch_generator


def drawn(spec: NetworkSpec, plan: Plan, dtype: torch.dtype, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """A network in training mode with drawn parameters, and the flat vector that these are views of."""
    draws = torch_generator(seed, 0, "test", "weights")
    network = build(spec, submodel(spec, plan).sizes, plan, draws).to(dtype).train()
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in network.parameters()])
    flat += 0.05 * torch.randn(len(flat), generator=draws, dtype=dtype)
    begin = 0
    for parameter in network.parameters():
        parameter.data = flat[begin : begin + parameter.numel()].view(parameter.shape)
        begin += parameter.numel()
    return network, flat


def batch_of(spec: NetworkSpec, count: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs [count, ...] and labels [count]."""
    draws = torch_generator(seed, count, "test", "examples")
    inputs = torch.randn(count, *spec.input_shape, generator=draws, dtype=dtype)
    return inputs, torch.randint(spec.classes, (count,), generator=draws)


def by_autograd(network: nn.Module, x: Tensor, y: Tensor, absent: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Loss and flat gradient."""
    network.zero_grad()
    logits = network(x)
    loss = F.cross_entropy(logits if absent is None else logits.masked_fill(absent, 0.0), y)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), torch.cat(
        [
            torch.zeros(parameter.numel(), dtype=x.dtype) if parameter.grad is None else parameter.grad.reshape(-1)
            for parameter in network.parameters()
        ]
    )


def fused(network: nn.Module, flat: Tensor, spec: NetworkSpec, clients: int = 1) -> FusedNetwork:
    """The same network with backward passes of its own."""
    layers, places = layers_of(network), places_of(network, flat)
    own = Coordinates(layers, places, input_shape=spec.input_shape, clients=clients, like=flat)
    return FusedNetwork(layers, own, spec.input_shape, Memory())


@torch.inference_mode()
def by_hand(
    of: FusedNetwork, flats: Tensor, batches: list[tuple[Tensor, Tensor]], absent: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Losses [K] and gradients [K, P] of every client's batch, from its weights [K, P]."""
    of.coordinates.read(flats)
    step = of.of(len(batches[0][1]))
    for number, (x, _) in enumerate(batches):
        step.inputs[number].copy_(x.movedim(0, -1))
    wanted = torch.stack([one_hot(y, of.classes, flats) for _, y in batches])
    logs = step.differentiate(wanted, absent)
    gradients = torch.zeros_like(flats)
    of.coordinates.write(of.coordinates.gradients, gradients)
    return -(logs * wanted).sum((1, 2)) / len(batches[0][1]), gradients
