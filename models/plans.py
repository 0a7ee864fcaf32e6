"""Plan → Submodel: a few scalars say which part of the network a device gets.

The server sends the plan, remembers it, and decodes the reply against it; nothing of it comes back. Rates are
fractions, because 10·(0.2+0.2+0.2) rounded up is 7 in floating point.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from models.axes import Along, Axis, Dim, Kind, Layout, Runs, TensorLayout
from models.submodel import Block, Submodel, merged

FULL = Fraction(1)


@dataclass(frozen=True, slots=True)
class Plan:
    """Which part of the network a device holds.

    Attributes:
        rate: share of the units kept on every width axis, in (0, 1].
        shift: where the kept window starts, in units, modulo the size of each axis (it wraps). 0 is the leading part.
        depth: number of stages kept; None keeps all.
        units: explicit kept units per width axis instead of a window, for draws: ((axis, (unit, ...)), ...).
        floor: round the number of kept units down instead of up.
    """

    rate: Fraction = FULL
    shift: int = 0
    depth: int | None = None
    units: tuple[tuple[str, tuple[int, ...]], ...] = ()
    floor: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate = {self.rate}: allowed is more than 0 and at most 1")
        if self.depth is not None and self.depth < 1:
            raise ValueError(f"depth = {self.depth}: allowed is 1 or more")

    def to_json(self) -> str:
        """Serialise; fields at their default are left out."""
        fields: dict[str, object] = {}
        if self.rate != FULL:
            fields["rate"] = str(self.rate)
        if self.shift:
            fields["shift"] = self.shift
        if self.depth is not None:
            fields["depth"] = self.depth
        if self.units:
            fields["units"] = {axis: list(kept) for axis, kept in self.units}
        if self.floor:
            fields["floor"] = True
        return json.dumps(fields)

    @staticmethod
    def from_json(text: str) -> Plan:
        """Read what `to_json` wrote.

        Raises:
            ValueError: not a plan.
        """
        fields = json.loads(text)
        try:
            if unknown := set(fields) - {"rate", "shift", "depth", "units", "floor"}:
                raise KeyError(*unknown)
            rate = Fraction(fields.get("rate", "1"))
            depth = None if fields.get("depth") is None else int(fields["depth"])
            units = tuple((str(axis), tuple(map(int, kept))) for axis, kept in fields.get("units", {}).items())
            shift, floor = int(fields.get("shift", 0)), bool(fields.get("floor", False))
        except (AttributeError, KeyError, TypeError, ZeroDivisionError) as error:
            raise ValueError(f"not a plan: {text[:80]!r} ({error!r})") from None
        return Plan(rate, shift, depth, units, floor)


def kept_units(size: int, rate: Fraction, *, floor: bool = False) -> int:
    """Count the units that a rate keeps of an axis: ceil(size·rate), or the floor.

    Raises:
        ValueError: nothing would be left.
    """
    kept = int(size * rate) if floor else -int(-size * rate // 1)
    if kept < 1:
        raise ValueError(f"rate {rate} leaves nothing of an axis of {size} units")
    return kept


def kept_runs(axis: Axis, plan: Plan, units: Mapping[str, tuple[int, ...]]) -> Runs:
    """List the kept units of one axis as runs, in local order.

    Raises:
        ValueError: the plan leaves nothing, or names units that the axis does not have.
    """
    if axis.kind is not Kind.WIDTH:
        return ((0, axis.size),)
    if axis.name in units:
        kept = sorted(set(units[axis.name]))
        if not kept or kept[0] < 0 or kept[-1] >= axis.size:
            raise ValueError(f"axis {axis.name!r} has units 0 to {axis.size - 1}, the plan keeps {kept[:3]}...")
        return merged(tuple((unit, 1) for unit in kept))
    try:
        length = kept_units(axis.size, plan.rate, floor=plan.floor)
    except ValueError as error:
        raise ValueError(f"{error} ({axis.name!r})") from None
    if length == axis.size:  # everything: its order is nobody's business
        return ((0, axis.size),)
    start = plan.shift % axis.size
    first = min(length, axis.size - start)
    return merged(((start, first), (0, length - first)))


def submodel(layout: Layout, plan: Plan) -> Submodel:
    """Turn a plan into the blocks that a device holds.

    Raises:
        ValueError: an empty axis, units of what is no width axis, an unknown unit, or a depth that has no exit.
    """
    units = dict(plan.units)
    if unknown := set(units) - {name for name, axis in layout.axes.items() if axis.kind is Kind.WIDTH}:
        raise ValueError(f"the plan keeps units of {sorted(unknown)}, which are not width axes of this network")
    if plan.depth is not None and plan.depth not in layout.exits:
        raise ValueError(f"depth = {plan.depth}: allowed is one of {sorted(layout.exits)}")
    runs = {name: kept_runs(axis, plan, units) for name, axis in layout.axes.items()}
    # Tensors along one axis share its runs: those of a draw are long.
    along = {dim: _runs(dim, runs[dim.axis], layout.axes[dim.axis].size) for dim in _alongs(layout)}
    blocks = {
        name: Block(name, tensor.shape, tuple(((0, size),) if d is None else along[d] for d, size in _sides(tensor)))
        for name, tensor in layout.tensors.items()
        if _held(tensor, plan)
    }
    sizes = {
        name: sum(length for _, length in runs[name]) for name, axis in layout.axes.items() if axis.kind is Kind.WIDTH
    }
    return Submodel(blocks, sizes)


def _sides(tensor: TensorLayout) -> list[tuple[Dim, int]]:
    return list(zip(tensor.dims, tensor.shape, strict=True))


def _held(tensor: TensorLayout, plan: Plan) -> bool:
    deep_enough = plan.depth is None or max(tensor.stage, tensor.exit) <= plan.depth
    return deep_enough and tensor.rate <= plan.rate


def _alongs(layout: Layout) -> set[Along]:
    return {dim for tensor in layout.tensors.values() for dim in tensor.dims if dim is not None}


def _runs(dim: Along, runs: Runs, size: int) -> Runs:
    """Kept coordinates of one dimension: the runs of its axis, scaled by the inner unit, once per outer one."""
    period = size * dim.inner
    return merged(
        tuple(
            (outer * period + start * dim.inner, count * dim.inner)
            for outer in range(dim.outer)
            for start, count in runs
        )
    )
