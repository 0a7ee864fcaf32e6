"""Plan → Submodel: a few scalars say which part of the network a device gets.

The server sends the plan, remembers it, and decodes the reply against it; nothing of it comes back. Rates are
fractions, because 10·(0.2+0.2+0.2) rounded up is 7 in floating point.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from fractions import Fraction
from functools import lru_cache

from models.algebra.axes import Along, Axis, Beside, Dim, Kind, Layout, Runs, TensorLayout, length_of, stretches_of
from models.algebra.precisions import PRECISIONS
from models.algebra.rates import FULL, Rate, exact_rate, exact_share, groups_in, rate_of, read_rate, read_share
from models.algebra.submodel import Block, Submodel, merged


@dataclass(frozen=True, slots=True)
class Plan:
    """Which part of the network a device holds.

    Attributes:
        rate: share of the units kept on every width axis, in (0, 1], or one for every group of axes; made of a number
            such as 0.5 or a text such as "1/2" as well, and always exact, like `keep`.
        shift: where the kept window starts, in units, modulo the size of each axis (it wraps). 0 is the leading part.
        depth: number of stages kept; None keeps all.
        units: explicit kept units per width axis instead of a window, for draws: ((axis, (unit, ...)), ...).
        floor: round the number of kept units down instead of up.
        own_exit: keep only the exit at the plan's depth, not those of shallower stages.
        dropped: residual blocks that are left out, ascending.
        bases: which of a mixture's nets are kept, in local order; None keeps all.
        keep: share of the weights that is kept, the largest by magnitude, in (0, 1]. The submodel has every coordinate;
            which of them count depends on the state (see `models.variants.importance`).
        frozen: number of leading stages that are held and not trained, with what belongs to no stage and the exits
            after them; a plan's submodel is what is trained, and `holding` says what is held.
        fixed: whether of pairs of low-rank factors A is held and not trained, or in its place the weights beside them
            where these are part of the state (`Pair.weight`).
        untrained: blocks that are held and not trained, ascending.
        precision: in which a base's linear layers are held; "" as the network says.
    """

    rate: Rate = FULL
    _: KW_ONLY
    shift: int = 0
    depth: int | None = None
    units: tuple[tuple[str, tuple[int, ...]], ...] = ()
    floor: bool = False
    own_exit: bool = False
    dropped: tuple[int, ...] = ()
    bases: tuple[int, ...] | None = None
    keep: Fraction = FULL
    frozen: int = 0
    fixed: bool = False
    untrained: tuple[int, ...] = ()
    precision: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", exact_rate("rate", self.rate))
        object.__setattr__(self, "keep", exact_share("keep", self.keep))
        for name, share in (("rate", self.rate), ("keep", self.keep)):
            if not 0 < share <= 1:
                raise ValueError(f"{name} = {share}: allowed is more than 0 and at most 1")
        if self.bases is not None and (not self.bases or len(set(self.bases)) < len(self.bases)):
            raise ValueError(f"bases = {self.bases}: allowed is at least one, each once")
        if self.depth is not None and self.depth < 1:
            raise ValueError(f"depth = {self.depth}: allowed is 1 or more")
        if self.precision and self.precision not in PRECISIONS:
            raise ValueError(f"precision = {self.precision[:40]!r}: allowed is {', '.join(PRECISIONS)}")
        if self.frozen < 0 or (self.depth is not None and self.frozen >= self.depth):
            raise ValueError(f"frozen = {self.frozen}: allowed is 0 or more, and less than the depth")

    @property
    def holding(self) -> Plan:
        """The plan of everything that is held, trained or not."""
        return replace(self, frozen=0, fixed=False, untrained=()) if self.holds_more else self

    @property
    def holds_more(self) -> bool:
        """Whether something is held that is not trained, beside a base."""
        return bool(self.frozen or self.fixed or self.untrained)

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
        if self.own_exit:
            fields["own_exit"] = True
        if self.dropped:
            fields["dropped"] = list(self.dropped)
        if self.bases is not None:
            fields["bases"] = list(self.bases)
        if self.keep != FULL:
            fields["keep"] = str(self.keep)
        if self.frozen:
            fields["frozen"] = self.frozen
        if self.fixed:
            fields["fixed"] = True
        if self.untrained:
            fields["untrained"] = list(self.untrained)
        if self.precision:
            fields["precision"] = self.precision
        return json.dumps(fields)

    @staticmethod
    def from_json(text: str) -> Plan:
        """Read what `to_json` wrote.

        Raises:
            ValueError: not a plan.
        """
        fields = json.loads(text)
        try:
            if unknown := set(fields) - _FIELDS:
                raise KeyError(*unknown)
            rate = read_rate(fields.get("rate", "1"))
            depth = None if fields.get("depth") is None else int(fields["depth"])
            units = tuple((str(axis), tuple(map(int, kept))) for axis, kept in fields.get("units", {}).items())
            shift, floor = int(fields.get("shift", 0)), bool(fields.get("floor", False))
            own_exit, dropped = bool(fields.get("own_exit", False)), tuple(map(int, fields.get("dropped", ())))
            bases = None if fields.get("bases") is None else tuple(map(int, fields["bases"]))
            keep, frozen = read_share(fields.get("keep", "1")), int(fields.get("frozen", 0))
            fixed, untrained = bool(fields.get("fixed", False)), tuple(map(int, fields.get("untrained", ())))
        except (AttributeError, KeyError, TypeError, ZeroDivisionError) as error:
            raise ValueError(f"not a plan: {text[:80]!r} ({error!r})") from None
        return Plan(
            rate,
            shift=shift,
            depth=depth,
            units=units,
            floor=floor,
            own_exit=own_exit,
            dropped=dropped,
            bases=bases,
            keep=keep,
            frozen=frozen,
            fixed=fixed,
            untrained=untrained,
            precision=str(fields.get("precision", "")),
        )


_FIELDS = frozenset(Plan.__dataclass_fields__)


@lru_cache(maxsize=256)
def leading(rate: Rate) -> Plan:
    """The leading part of a rate: one object, made and checked once, for all nodes and rounds that have it."""
    return Plan(rate)


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
    if not axis.kind.shrinks:
        return ((0, axis.size),)
    if axis.kind is Kind.BASE:
        return ((0, kept_units(axis.size, rate_of(plan.rate, axis.group))),)
    if axis.name in units:
        kept = sorted(set(units[axis.name]))
        if not kept or kept[0] < 0 or kept[-1] >= axis.size:
            raise ValueError(f"axis {axis.name!r} has units 0 to {axis.size - 1}, the plan keeps {kept[:3]}...")
        return merged(tuple((unit, 1) for unit in kept))
    try:
        length = kept_units(axis.size, rate_of(plan.rate, axis.group), floor=plan.floor)
    except ValueError as error:
        raise ValueError(f"{error} ({axis.name!r})") from None
    if length == axis.size:  # everything: its order is nobody's business
        return ((0, axis.size),)
    start = plan.shift % axis.size
    first = min(length, axis.size - start)
    return merged(((start, first), (0, length - first)))


def submodel(layout: Layout, plan: Plan) -> Submodel:
    """Turn a plan into the blocks that a device trains: all that it holds, unless some of that is frozen.

    Raises:
        ValueError: an empty axis, units of what is no width axis, an unknown unit, a rate for a group that there is
            not, a depth that has no exit, or a block that cannot be left out.
    """
    units = dict(plan.units)
    if unknown := set(units) - {name for name, axis in layout.axes.items() if axis.kind.cut}:
        raise ValueError(f"the plan keeps units of {sorted(unknown)}, which are not width axes of this network")
    if strange := groups_in(plan.rate) - set(layout.groups):
        raise ValueError(f"the plan has rates for {sorted(strange)}: allowed is {list(layout.groups)}")
    if plan.depth is not None and plan.depth not in layout.exits:
        raise ValueError(f"depth = {plan.depth}: allowed is one of {sorted(layout.exits)}")
    if wrong := {*plan.dropped, *plan.untrained} - layout.blocks:
        raise ValueError(f"blocks {sorted(wrong)} cannot be left out: allowed is {sorted(layout.blocks)}")
    runs = {name: kept_runs(axis, plan, units) for name, axis in layout.axes.items()}
    fixed = {pair.weight or pair.a for pair in layout.pairs} if plan.fixed else set()
    # Tensors along one axis share its runs: those of a draw are long.
    along = {dim: _kept(dim, runs, layout.axes) for dim in _cut_dims(layout)}
    blocks = {
        name: Block(
            source=name,
            shape=tensor.shape,
            runs=tuple(((0, size),) if d is None else along[d] for d, size in _sides(tensor)),
        )
        for name, tensor in layout.tensors.items()
        if _held(tensor, plan, layout) and not _frozen(tensor, plan) and name not in fixed
    }
    sizes = {name: sum(length for _, length in runs[name]) for name, axis in layout.axes.items() if axis.kind.shrinks}
    return Submodel(blocks, sizes)


def _sides(tensor: TensorLayout) -> list[tuple[Dim, int]]:
    return list(zip(tensor.dims, tensor.shape, strict=True))


def _held(tensor: TensorLayout, plan: Plan, layout: Layout) -> bool:
    deep_enough = plan.depth is None or max(tensor.stage, tensor.exit) <= plan.depth
    depth = plan.depth or layout.depth
    other_exit = plan.own_exit and tensor.exit > 0 and tensor.exit != depth
    return deep_enough and not other_exit and tensor.rate <= plan.rate and tensor.block not in set(plan.dropped) - {0}


def _frozen(tensor: TensorLayout, plan: Plan) -> bool:
    """Whether a tensor that is held is not trained; an exit that every depth uses is."""
    if tensor.block in plan.untrained:
        return True
    return bool(plan.frozen) and (tensor.exit or tensor.stage) in range(plan.frozen + 1)


def _cut_dims(layout: Layout) -> set[Along | Beside]:
    return {dim for tensor in layout.tensors.values() for dim in tensor.dims if dim is not None}


def _kept(dim: Along | Beside, runs: Mapping[str, Runs], axes: Mapping[str, Axis]) -> Runs:
    """Kept coordinates of one dimension: those of its stretches, one after the other."""
    kept, start = list[tuple[int, int]](), 0
    for stretch in stretches_of(dim, 0):
        length = length_of(stretch, axes)
        own = (
            ((0, length),) if isinstance(stretch, int) else _runs(stretch, runs[stretch.axis], axes[stretch.axis].size)
        )
        kept += [(start + first, count) for first, count in own]
        start += length
    return merged(tuple(kept))


def _runs(dim: Along, runs: Runs, size: int) -> Runs:
    """Kept coordinates along one axis: its runs, scaled by the inner unit, once per outer one."""
    period = size * dim.inner
    return merged(
        tuple(
            (outer * period + start * dim.inner, count * dim.inner)
            for outer in range(dim.outer)
            for start, count in runs
        )
    )
