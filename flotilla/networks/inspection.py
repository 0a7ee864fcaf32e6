"""What tiers hold of a network: its axes, what is not cut and why, and what every part costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.algebra.axes import Along, Layout, stretches_of
from models.algebra.plans import Plan, kept_units
from models.algebra.rates import Rate, rate_of
from models.cost import cost_of, training_bytes
from models.foreign.axes import Found
from models.foreign.check import Proof
from models.networks.build import layout, submodel
from models.networks.complete import completed
from models.networks.registry import NETWORKS
from models.networks.spec import NetworkSpec
from strategies.tiers.reach import check_groups
from strategies.tiers.tier import Tier

_BYTES = 4  # of a float32
_NAMED = 3  # tensors of a reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a tier has.

    Attributes:
        tier: its name.
        rate: its width.
        parameters: trained numbers.
        macs: multiply-accumulates of one forward pass.
        bytes: that cross the wire one way, as float32.
        memory: bytes to train it, beside the process.
        units: kept units by axis.
    """

    tier: str
    rate: Rate
    parameters: int
    macs: int
    bytes: int
    memory: int
    units: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A network and its tiers.

    Attributes:
        spec: completed.
        layout: its axes and tensors.
        tiers: widest first, as they were given.
        found: what was found and how it was proved; None where the network declares its axes.
    """

    spec: NetworkSpec
    layout: Layout
    tiers: tuple[Held, ...]
    found: tuple[Found, Proof] | None

    def text(self) -> str:
        """As a person reads it."""
        return "\n".join([*self._head(), "", *self._axes(), *self._depth(), *self._whole(), "", *self._tiers()])

    def _head(self) -> list[str]:
        spec = self.spec
        lines = [f"{spec.name}: inputs {_shape(spec.input_shape)}, {spec.classes} classes, norm {spec.norm}"]
        if self.found is not None:
            proof = self.found[1]
            lines.append(
                f"found and proved: units in other places move the logits by {proof.moved:.0e}, half of it and the"
                f" whole with zeros differ by {proof.differs:.0e}, of the largest; fingerprint {spec.fingerprint}"
            )
        return lines

    def _axes(self) -> list[str]:
        along: dict[str, list[str]] = {}
        for name, tensor in self.layout.tensors.items():
            for dim, size in zip(tensor.dims, tensor.shape, strict=True):
                for stretch in stretches_of(dim, size):
                    if isinstance(stretch, Along) and name not in along.setdefault(stretch.axis, []):
                        along[stretch.axis].append(name)
        widths = [axis for axis in self.layout.axes.values() if axis.kind.cut]
        room = max([4, *(len(axis.name) for axis in widths)])
        group = max([5, *(len(axis.group) for axis in widths)])
        lines = [f"{'axis':<{room}}{'units':>7}   {'group':<{group}}   tensors along it"]
        return lines + [
            f"{one.name:<{room}}{one.size:>7}   {one.group or '-':<{group}}   {_listed(along.get(one.name, []))}"
            for one in widths
        ]

    def _depth(self) -> list[str]:
        """The stages that depths count, and the residual blocks in them; none where it cannot be cut in depth."""
        stages: dict[int, list[str]] = {}
        blocks: dict[int, set[int]] = {}
        for name, tensor in self.layout.tensors.items():
            if tensor.stage:
                stages.setdefault(tensor.stage, []).append(name)
                blocks.setdefault(tensor.stage, set()).update({tensor.block} - {0})
        if not stages:
            return ["", "not cut in depth: it has fewer than two residual blocks, and no stages"]
        lines = ["", f"{'stage':<8}{'blocks':<20}   tensors"]
        for stage, names in sorted(stages.items()):
            numbers = ", ".join(map(str, sorted(blocks[stage]))) or "-"
            lines.append(f"{stage:<8}{numbers:<20}   {_listed(names)}")
        return lines

    def _whole(self) -> list[str]:
        if self.found is None:
            return []
        traced = self.found[0].traced
        lines = ["", "not cut"]
        lines += [f"  {why}: {_listed(names)}" for why, names in self.found[0].whole.items()]
        if traced.unused:
            lines.append(f"  not read by its forward, and left out: {_listed(list(traced.unused))}")
        return lines

    def _tiers(self) -> list[str]:
        full = max(one.parameters for one in self.tiers)
        rate = max([6, *(2 + len(str(one.rate)) for one in self.tiers)])
        heads = f"{'parameters':>13}{'share':>8}{'MACs':>13}{'MB one way':>13}{'memory MB':>12}"
        lines = [f"{'tier':<8}{'rate':>{rate}}{heads}"]
        return lines + [
            f"{one.tier:<8}{one.rate!s:>{rate}}{one.parameters:>13,}{one.parameters / full:>8.1%}{one.macs:>13,}"
            f"{one.bytes / 1e6:>13.4f}{one.memory / 1e6:>12.1f}"
            for one in self.tiers
        ]


def inspect(spec: NetworkSpec, tiers: Sequence[Tier], batch_size: int) -> Inspection:
    """Find out what tiers hold of a network.

    Args:
        spec: the network; it is completed, and proved if its axes are found.
        tiers: by width.
        batch_size: examples of a step, for the memory.

    Raises:
        SettingError: there is no such network, or tiers have rates for groups that it has not.
    """
    whole = completed(spec)
    check_groups(layout(whole), tiers)
    prove = NETWORKS[whole.name].prove
    widths = [axis for axis in layout(whole).axes.values() if axis.kind.cut]
    held = []
    for tier in tiers:
        plan = Plan(tier.rate)
        cost = cost_of(whole, plan)
        held.append(
            Held(
                tier=tier.name,
                rate=tier.rate,
                parameters=cost.parameters,
                macs=cost.macs,
                bytes=_BYTES * submodel(whole, plan).numel,
                memory=training_bytes(whole, plan, batch_size),
                units={axis.name: kept_units(axis.size, rate_of(tier.rate, axis.group)) for axis in widths},
            )
        )
    return Inspection(
        spec=whole, layout=layout(whole), tiers=tuple(held), found=None if prove is None else prove(whole)
    )


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
