"""Normalisation for networks that are cut, and the Scaler.

- `StaticBatchNorm` (HeteroFL §3.3): batch statistics while training, no running statistics in the state. Before
  evaluation the statistics are estimated on training data (`models.statistics`) and set; never the test batch.
- `BatchNormPerWidth` (FjORD, footnote on batch norm): one set of running statistics per width, one shared affine part.
  Without widths it is ordinary batch norm whose statistics are cut as its weights are, which is right where every
  submodel has norms of its own (NeFL).
- group norm, of at least 16 channels a group (DepthFL's option has 16 groups, HeteroFL's 4), layer norm (over the last
  dimension, the features of a transformer) and none.
- `Scaler` (HeteroFL §3.3): divides by the rate while training, so that narrow and wide parts see like magnitudes.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.algebra.axes import Dim
from models.algebra.declarations import declare
from models.algebra.rates import Rate

EPSILON = 1e-5
CHANNEL_NORMS = ("static-batch", "batch-per-width", "group", "none")  # of features (N, C, ...)
NORMS = ("static-batch", "batch-per-width", "group", "layer", "none")


class Moments:
    """Sum and sum of squares per channel, in float64: exact to combine over batches and over devices."""

    def __init__(self, channels: int) -> None:
        self.count = 0.0
        self.total = torch.zeros(channels, dtype=torch.float64)
        self.square = torch.zeros(channels, dtype=torch.float64)

    def add(self, x_NCx: Tensor) -> None:
        """Add one batch of activations."""
        dims = [dim for dim in range(x_NCx.ndim) if dim != 1]
        # Summing over a batch in float64 costs a copy; summing floats over thousands of values would cost digits.
        wide = x_NCx.detach().to(torch.float64)
        self.count += x_NCx.numel() / x_NCx.shape[1]
        self.total += wide.sum(dims).cpu()
        self.square += wide.square().sum(dims).cpu()


class StaticBatchNorm(nn.Module):
    """Batch norm without running statistics in the state.

    Training normalises by the batch (over every dimension but the channels). Evaluation needs `set_statistics` first.
    A batch with one value per channel has no variance: it normalises to zero, so the output is the bias and no gradient
    passes.

    Attributes:
        statistics: (mean, variance) per channel for evaluation; not part of the state.
        collector: where activations are summed while statistics are estimated.
    """

    def __init__(self, channels: int, epsilon: float = EPSILON) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.statistics: tuple[Tensor, Tensor] | None = None
        self.collector: Moments | None = None

    def forward(self, x_NCx: Tensor) -> Tensor:
        """Normalise (N, C, ...) per channel."""
        if self.collector is not None:
            self.collector.add(x_NCx)
        if self.training or self.collector is not None:
            # Not F.batch_norm, which refuses a batch with one value per channel.
            return torch.batch_norm(x_NCx, self.weight, self.bias, None, None, True, 0.0, self.epsilon, False)
        if self.statistics is None:
            raise RuntimeError("static batch norm has no statistics: estimate them on training data first")
        mean, variance = (part.to(x_NCx.device) for part in self.statistics)
        return F.batch_norm(x_NCx, mean, variance, self.weight, self.bias, training=False, eps=self.epsilon)


class BatchNormPerWidth(nn.Module):
    """Batch norm with running statistics for every width inside the one it is built at; it uses its own width's.

    Args:
        channels_at: width → channels.
        rates: all widths that have statistics, as `ascending` orders them; () is one set for whatever width this is.
        rate: the width of this build, one of them.
        momentum: weight of the newest batch in the running statistics.
        epsilon: added to the variance.

    Attributes:
        held_from: name of a running statistic → the narrowest width that holds it.
    """

    def __init__(
        self,
        channels_at: Callable[[Rate], int],
        rates: tuple[Rate, ...],
        rate: Rate,
        *,
        momentum: float = 0.1,
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__()
        rates = rates or (rate,)
        if rate not in rates:
            raise ValueError(f"rate = {rate}: allowed is one of {', '.join(map(str, rates))}")
        channels = channels_at(rate)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.momentum, self.epsilon = momentum, epsilon
        self.own = rates.index(rate)
        self.held_from: dict[str, Rate] = {}
        for index, narrowest in enumerate(rates):
            if not narrowest <= rate:  # nor what is neither narrower nor wider
                continue
            for name, start in ((f"mean_{index}", torch.zeros), (f"variance_{index}", torch.ones)):
                self.register_buffer(name, start(channels_at(narrowest)))
                self.held_from[name] = narrowest

    def forward(self, x_NCx: Tensor) -> Tensor:
        """Normalise (N, C, ...) per channel; training updates the running statistics of this width in place."""
        mean, variance = self.get_buffer(f"mean_{self.own}"), self.get_buffer(f"variance_{self.own}")
        # One value per channel has no variance: normalise by the running statistics and leave them alone.
        batch = self.training and x_NCx.numel() > x_NCx.shape[1]
        return F.batch_norm(x_NCx, mean, variance, self.weight, self.bias, batch, self.momentum, self.epsilon)


class GroupNorm(nn.GroupNorm):
    """Group norm that takes any batch: a group of one value normalises to zero, so the output is the bias."""

    def forward(self, x_NCx: Tensor) -> Tensor:
        """Normalise (N, C, ...) per example and group."""
        # Not F.group_norm, which refuses one example with one value in a group.
        return torch.group_norm(x_NCx, self.num_groups, self.weight, self.bias, self.eps, torch.backends.cudnn.enabled)


class StepSize(nn.Module):
    """Multiplies by one learnt number, at first 1 (NeFL's step size of a residual block)."""

    def __init__(self) -> None:
        super().__init__()
        self.size = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Scale."""
        return x * self.size


class Scaler(nn.Module):
    """Divides by the rate while training; identity in evaluation."""

    def __init__(self, rate: Fraction) -> None:
        super().__init__()
        self.factor = float(1 / rate)

    def forward(self, x: Tensor) -> Tensor:
        """Scale by 1/rate in training."""
        return x * self.factor if self.training and self.factor != 1.0 else x


def groups_of(channels: int, channels_per_group: int = 16) -> int:
    """Find the most groups of equal size that leave at least `channels_per_group` in each; 1 if there are none."""
    most = max(1, channels // channels_per_group)
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)


def norm_layer(
    kind: str,
    dim: str | Dim,
    channels_at: Callable[[Rate], int],
    rate: Rate,
    *,
    channels: int,
    rates: tuple[Rate, ...],
    momentum: float = 0.1,
    epsilon: float = EPSILON,
) -> nn.Module:
    """Build one declared normalisation layer.

    Args:
        kind: one of `NORMS`.
        dim: what its channels run along.
        channels_at: width → channels.
        rate: width of this build.
        channels: of this build.
        rates: the widths that have statistics of their own (batch-per-width only).
        momentum: weight of the newest batch in running statistics (batch-per-width only).
        epsilon: added to the variance.
    """
    dims: dict[str, tuple[str | Dim, ...]] = {"weight": (dim,), "bias": (dim,)}
    if kind == "static-batch":
        return declare(StaticBatchNorm(channels, epsilon), dims)
    if kind == "group":
        return declare(GroupNorm(groups_of(channels), channels, epsilon), dims)
    if kind == "layer":
        return declare(nn.LayerNorm(channels, epsilon), dims)
    if kind == "none":
        return nn.Identity()
    if kind == "batch-per-width":
        module = BatchNormPerWidth(channels_at, rates, rate, momentum=momentum, epsilon=epsilon)
        if not rates:
            return declare(module, {**dims, **dict.fromkeys(module.held_from, (dim,))})
        return declare(module, {**dims, **dict.fromkeys(module.held_from, (None,))}, rates=module.held_from)
    raise ValueError(f"norm = {kind!r}: allowed is one of {', '.join(NORMS)}")
