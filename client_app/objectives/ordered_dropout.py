"""Ordered dropout with self-distillation (FjORD, Horvath et al. 2021, §3 and §4.1).

Every batch draws a width p uniformly from those that the device can hold and trains the leading part of that width.
With distillation the widest part is the teacher: it learns by cross entropy, and
    L = CE(widest, y) + [p < p_max] · ((1-α)·CE(part, y) + α·T²·KL(softmax(widest/T) ‖ softmax(part/T)))
where the teacher's softmax is a constant. The published code has α = T = 1, where T² changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from client_app.objectives.base import ObjectiveContext
from models.adapters.dropout import draws_of, dropping
from models.adapters.frozen import frozen_tensors
from models.algebra.axes import Kind, Layout
from models.algebra.declarations import layout_of
from models.algebra.groups import RANK
from models.algebra.plans import Plan
from models.algebra.plans import submodel as cut
from models.algebra.rates import Rate, ascending, rate_of, read_rate, with_group
from models.losses import loss_of
from models.networks.build import blank, layout, submodel
from models.networks.spec import NetworkSpec
from models.norms.dual_norm import noise_share, noise_share_of
from protocol import WireError


class OrderedDropout:
    """Draws a width per batch; see the module.

    Settings: `rates` (with commas between them), `distillation` (bool), `alpha`, `temperature`.

    Raises:
        WireError: a setting is missing or not understood, or no width fits the part.
    """

    def __init__(self, setting: ObjectiveContext) -> None:
        try:
            rates = ascending(map(read_rate, str(setting.settings["rates"]).split(",")))
            self._distil = bool(setting.settings.get("distillation", False))
            self._alpha = float(setting.settings.get("alpha", 1.0))
            self._temperature = float(setting.settings.get("temperature", 1.0))
        except (KeyError, ValueError) as error:
            raise WireError(f"ordered dropout settings {dict(setting.settings)}: {error!r}") from None
        if setting.spec.adapter is not None and setting.spec.adapter.cut:  # of a cut base ranks are drawn on one's own
            rates = ascending(with_group(setting.plan.rate, RANK, rate_of(rate, RANK)) for rate in rates)
        self._rates = [rate for rate in rates if rate <= setting.plan.rate]
        if not self._rates or self._rates[-1] != setting.plan.rate:
            raise WireError(f"the part's rate {setting.plan.rate} is not among the widths {rates}")
        self._draws, self._module, self._task = setting.draws, setting.module, setting.spec.task
        self._forward = {rate: narrower(setting.module, setting.spec, setting.plan, rate) for rate in self._rates}

    def __call__(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of one batch and the logits that it trained (the widest part's when distilling)."""
        rate = self._rates[self._draws.integers(len(self._rates))]
        if not self._distil:
            logits = self._forward[rate](inputs)
            return loss_of(self._task, logits, labels), logits
        widest = self._module(inputs)
        loss = loss_of(self._task, widest, labels)
        if rate != self._rates[-1]:
            part, t = self._forward[rate](inputs), self._temperature
            teacher = F.softmax(widest.detach() / t, dim=1)
            divergence = F.kl_div(F.log_softmax(part / t, dim=1), teacher, reduction="batchmean")
            loss = loss + (1 - self._alpha) * loss_of(self._task, part, labels) + self._alpha * t * t * divergence
        return loss, widest


def narrower(module: nn.Module, spec: NetworkSpec, plan: Plan, rate: Rate) -> Callable[[Tensor], Tensor]:
    """The forward pass of the leading part of width `rate` of a local network, on the local network's own tensors.

    Gradients and running statistics land in the local tensors, because the part is made of views.
    """
    if rate == plan.rate:
        return module
    narrow = Plan(rate, precision=plan.precision)
    sizes, own = submodel(spec, narrow).sizes, submodel(spec, plan).sizes
    axes = {name: replace(axis, size=own.get(name, axis.size)) for name, axis in layout(spec).axes.items()}
    with torch.device("meta"):  # a shape to run, never weights of its own
        local_layout = layout_of(blank(spec, own, plan), axes)
        skeleton = blank(spec, sizes, narrow)
    leading = tuple((name, tuple(range(size))) for name, size in sizes.items() if axes[name].kind.cut)
    part = cut(_on_own_base(local_layout), Plan(rate, units=leading))
    tensors = dict(module.state_dict(keep_vars=True))
    held = _constants(skeleton, lambda: blank(spec, sizes, narrow)) | frozen_tensors(module)

    def forward(inputs: Tensor) -> Tensor:
        skeleton.train(module.training)
        with noise_share(skeleton, noise_share_of(module)), dropping(skeleton, draws_of(module)):
            return functional_call(skeleton, part.gather(tensors) | held, (inputs,), strict=True)  # type: ignore[no-any-return]

    return forward


def _on_own_base(local: Layout) -> Layout:
    """A local network's layout whose base is not cut any further."""
    axes = {
        name: replace(axis, kind=Kind.FIXED) if axis.kind is Kind.BASE else axis for name, axis in local.axes.items()
    }
    return replace(local, axes=axes)


def _constants(skeleton: nn.Module, build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """What a part computes with that is in no state, such as the positions that an ordinary module made for itself."""
    names = dict(skeleton.named_buffers()).keys() - skeleton.state_dict().keys()
    return {name: tensor for name, tensor in build().named_buffers() if name in names} if names else {}
