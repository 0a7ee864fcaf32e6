"""Statistics of static batch norm: estimated on training data, pooled over devices, then set.

HeteroFL's code (diaoenmao, commit cc40f3e) re-estimates them after training by running the data through the network,
and takes the mean over batches of their means and of their *unbiased* variances (`BatchNorm2d(momentum=None)`): what
lies between the batches is in no variance, and logits part by some 1e-3. We pool sums and sums of squares, so the
result is the mean and variance over all activations however they were batched or distributed. The estimate runs the
network as evaluation sees it (no scaler, no dropout), only normalising by the batch at hand: the activations that a
layer below another norm sees do depend on how the examples were batched.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from models.algebra.plans import Plan
from models.networks.build import build_part, shape_of
from models.networks.spec import NetworkSpec
from models.norms.dual_norm import dual_norms, noise_share
from models.norms.layers import Moments, StaticBatchNorm
from models.predictions import predictions
from models.recent import Recent

_channels = Recent[Hashable, Mapping[str, int]](64)


def static_norms(network: nn.Module) -> dict[str, StaticBatchNorm]:
    """Find the layers that need statistics, by module path, in network order."""
    return {name: module for name, module in network.named_modules() if isinstance(module, StaticBatchNorm)}


def needs_statistics(network: nn.Module) -> bool:
    """Whether the network can only be evaluated after `set_statistics`."""
    return bool(static_norms(network))


@torch.no_grad()
def collect(network: nn.Module, batches: Iterable[Tensor], noisy: Sequence[Tensor] | None = None) -> Tensor:
    """Run batches through the network and return the moments of every static norm.

    Args:
        network: in whatever mode; it is left in evaluation mode.
        batches: input batches (N, C, H, W). Large batches are better: layers below see batch statistics.
        noisy: as many batches of adversarial inputs, which the noise copies of dual norms see (see
            `models.norms.dual_norm`); unless given they see the same clean ones.

    Returns:
        float64 vector: count, sums and sums of squares of every layer in network order. Moments of devices that hold
        the same submodel are pooled by adding these vectors.
    """
    network.eval()
    layers, twice = list(static_norms(network).values()), bool(dual_norms(network))
    for layer in layers:
        layer.collector = Moments(layer.weight.numel())
    try:
        pairs = ((batch, batch) for batch in batches) if noisy is None else zip(batches, noisy, strict=True)
        for clean, attacked in pairs:
            with noise_share(network, 0.0):
                predictions(network, clean)  # every exit has norms of its own
            if twice:
                with noise_share(network, 1.0):
                    predictions(network, attacked)
        moments = [layer.collector for layer in layers if layer.collector is not None]
    finally:
        for layer in layers:
            layer.collector = None
    parts = [part for m in moments for part in (torch.tensor([m.count], dtype=torch.float64), m.total, m.square)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def moments_length(channels: Sequence[int]) -> int:
    """Length of the vector that `collect` returns for layers of these channels."""
    return sum(1 + 2 * count for count in channels)


def check_moments(moments: Tensor, channels: Mapping[str, int]) -> None:
    """Refuse moments that cannot be those of layers with these channels (by layer, in network order).

    Raises:
        ValueError: wrong length, or a layer whose moments are not finite or that saw nothing.
    """
    expected = moments_length(list(channels.values()))
    if moments.shape != (expected,):
        raise ValueError(f"expected {expected} moments, got {tuple(moments.shape)}")
    parts = torch.split(moments, [1 + 2 * count for count in channels.values()])
    for (name, count), part in zip(channels.items(), parts, strict=True):
        if not (part.isfinite().all() and part[0] > 0 and (part[1 + count :] >= 0).all()):
            raise ValueError(f"no usable statistics for {name!r}")


def channels_of(network: nn.Module) -> dict[str, int]:
    """Channels of every static norm, by layer in network order."""
    return {name: layer.weight.numel() for name, layer in static_norms(network).items()}


def channels_of_part(spec: NetworkSpec, plan: Plan) -> Mapping[str, int]:
    """The same of the network of a part, which is not made again for parts of its shape."""
    return _channels((spec, shape_of(spec, plan)), lambda: _channels_of_part(spec, plan))


def _channels_of_part(spec: NetworkSpec, plan: Plan) -> Mapping[str, int]:
    with torch.device("meta"):
        return channels_of(build_part(spec, plan))


def estimate_statistics(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give static batch norm the statistics of these inputs, on the network's device; nothing where there is none."""
    if needs_statistics(network):
        set_statistics(network, collect(network, batches))


def set_statistics(network: nn.Module, moments: Tensor) -> None:
    """Set mean and variance of every static norm from (pooled) moments.

    Raises:
        ValueError: the vector's length does not fit, it is not finite, or a layer saw nothing.
    """
    channels = channels_of(network)
    check_moments(moments, channels)
    parts = torch.split(moments, [1 + 2 * count for count in channels.values()])
    for layer, width, part in zip(static_norms(network).values(), channels.values(), parts, strict=True):
        count, total, square = torch.split(part, [1, width, width])
        mean = total / count
        variance = (square / count - mean.square()).clamp_min(0)
        layer.statistics = (mean.float(), variance.float())
