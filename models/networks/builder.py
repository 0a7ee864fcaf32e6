"""Makes layers of the size that one build keeps, and declares their axes in the same step."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from models.algebra.axes import Along, Axis, Kind
from models.algebra.declarations import declare
from models.algebra.plans import Plan, kept_units
from models.algebra.rates import Rate, rate_of
from models.networks.memory_order import is_narrow, is_unsafe, picked, turned
from models.networks.spec import NetworkSpec
from models.norms import layers as norm
from models.norms.dual_norm import DualNorm
from models.settings import Scalar

IMAGE, CLASSES = "image", "classes"
_EMBEDDING_DEVIATION = 0.02


def ends(spec: NetworkSpec) -> dict[str, Axis]:
    """Make the two axes that every network has and nobody cuts: image channels and classes."""
    return {
        IMAGE: Axis(IMAGE, spec.input_shape[0], Kind.FIXED),
        CLASSES: Axis(CLASSES, spec.classes, Kind.CLASS),
    }


class Conv2d(nn.Conv2d):
    """Convolution whose weights are drawn elsewhere.

    Where features have channels innermost, a wide one turns them; a narrow one of 1x1 with a stride picks the positions
    that it reads, first.
    """

    def reset_parameters(self) -> None:
        """Begin at zero: a default draw would take numbers from the global generator, only to be overwritten."""
        _zero(self)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) → (N, out, H', W')."""
        if is_unsafe(self) and (read := picked(x, self.stride)) is not None:
            return F.conv2d(read, self.weight, self.bias)
        return super().forward(x if is_narrow(self) else turned(x))


class Linear(nn.Linear):
    """Linear layer whose weights are drawn elsewhere."""

    def reset_parameters(self) -> None:
        """Begin at zero, as `Conv2d` does."""
        _zero(self)


class Embedding(nn.Embedding):
    """Embedding that says how its weights are drawn; it does not draw them itself, as `Conv2d`."""

    deviation: float  # of the weights, at first

    def reset_parameters(self) -> None:
        """Begin at zero, as `Conv2d` does."""
        _zero(self)


def _zero(module: nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        nn.init.zeros_(parameter)


class Builder:
    """Makes layers of the size that one build keeps, and declares what each dimension runs along.

    Args:
        spec: the network's scalars.
        axes: its axes at full width.
        sizes: kept units per width axis; axes that are absent are full.
        plan: of this build: its rate is what the scaler and per-width statistics need, its depth, exits and blocks
            say which stages are made.
    """

    def __init__(self, spec: NetworkSpec, axes: Mapping[str, Axis], sizes: Mapping[str, int], plan: Plan) -> None:
        self.spec, self.axes, self.rate = spec, dict(axes), plan.rate
        self.depth, self.own_exit = plan.depth, plan.own_exit
        self.sizes, self.dropped = sizes, frozenset(plan.dropped)

    def option(self, name: str) -> Scalar:
        """One of the network's own options (`OPTIONS`)."""
        return dict(self.spec.options)[name]

    def axis(self, name: str, size: int, kind: Kind = Kind.WIDTH, *, group: str = "") -> str:
        """Declare an axis where it is first used, for a network that is a plain function of a builder.

        Args:
            name: of the axis; the same one may be declared again.
            size: units at full width, which must not depend on the build.
            kind: a width, which tiers cut, or something that nobody cuts.
            group: of axes for which tiers may have a rate of their own, such as those in `models.algebra.groups`.

        Returns:
            The name.

        Raises:
            ValueError: it was declared with another size.
        """
        known = self.axes.setdefault(name, Axis(name, size, kind, group=group))
        if known != Axis(name, size, kind, group=known.group):
            raise ValueError(f"axis {name!r} is {known.size} units of kind {known.kind.value}, not {size} {kind.value}")
        return name

    def holds(self, block: int) -> bool:
        """Whether this build has a residual block."""
        return block not in self.dropped

    def size(self, axis: str | Along) -> int:
        """Coordinates of a dimension in this build."""
        if isinstance(axis, Along):
            return axis.outer * self.size(axis.axis) * axis.inner
        return self.sizes.get(axis, self.axes[axis].size)

    def conv(
        self, inputs: str, outputs: str, kernel: int, *, stride: int = 1, padding: int = 0, bias: bool
    ) -> nn.Conv2d:
        """2-d convolution from one axis to another."""
        layer = Conv2d(self.size(inputs), self.size(outputs), kernel, stride=stride, padding=padding, bias=bias)
        return declare(layer, {"weight": (outputs, inputs, None, None), "bias": (outputs,)})

    def depthwise(self, axis: str, kernel: int, *, stride: int = 1, padding: int = 0) -> nn.Conv2d:
        """2-d convolution of every channel by itself."""
        size = self.size(axis)
        layer = Conv2d(size, size, kernel, stride=stride, padding=padding, groups=size, bias=False)
        return declare(layer, {"weight": (axis, None, None, None)})

    def classifier(self, inputs: str) -> nn.Linear:
        """Linear layer to the classes."""
        return self.linear(inputs, CLASSES)

    def linear(self, inputs: str | Along, outputs: str | Along) -> nn.Linear:
        """Linear layer from one axis to another."""
        layer = Linear(self.size(inputs), self.size(outputs))
        return declare(layer, {"weight": (outputs, inputs), "bias": (outputs,)})

    def embedding(self, rows: str, features: str, *, deviation: float = _EMBEDDING_DEVIATION) -> nn.Embedding:
        """One learnt vector along `features` for every unit of `rows`, at first from N(0, deviation²)."""
        layer = Embedding(self.size(rows), self.size(features))
        layer.deviation = deviation
        return declare(layer, {"weight": (rows, features)})

    def step(self) -> nn.Module:
        """What the branch of a residual block goes through: a learnt step size, or nothing."""
        if not self.spec.step_sizes:
            return nn.Identity()
        return declare(norm.StepSize(), {"size": (None,)}, role="step")

    def norm(self, axis: str) -> nn.Module:
        """Normalisation over an axis, with the Scaler before it where the spec asks for it."""
        whole = self.axes[axis]

        def channels_at(rate: Rate) -> int:
            return kept_units(whole.size, rate_of(rate, whole.group))

        def make() -> nn.Module:
            return norm.norm_layer(
                self.spec.norm, axis, channels_at, self.rate, channels=self.size(axis), rates=self.spec.rates
            )

        layer = DualNorm(make(), make()) if self.spec.dual else make()
        scale = norm.Scaler(rate_of(self.rate, whole.group)) if self.spec.scaler else nn.Identity()
        both = nn.Sequential(OrderedDict(scale=scale, norm=layer))  # one set of names, scaled or not
        return declare(both, role="norm")
