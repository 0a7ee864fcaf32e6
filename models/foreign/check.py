"""The proof of what was found, on the module itself, with tensors that are all drawn at random.

- *Permutation*: the units of every axis change places in all tensors of the user's module; its output must not move.
  Exact under norms as well, and needs nothing of ours but the axes.
- *Graph*: the graph gives what the module gives.
- *Cut*: the network of a part gives what the whole graph gives whose other units are zero. Norms, means and sums run
  over kept coordinates in both, as norms in a part do.
- *Depth*: branches are what is added to their block's input. Multiplied by one, the logits are the module's; multiplied
  by zero, they are those of the network without blocks.

First weights hide mistakes (heads that start at zero, gains of 10⁻⁶), therefore random ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil, sqrt
from typing import Any

import torch
from torch import Tensor, fx, nn

from models.algebra.axes import Kind
from models.foreign.atoms import Atom, Extent, atoms_of, factors_of, size_of
from models.foreign.axes import Found
from models.foreign.part import build_part
from models.foreign.rules import Counts
from models.foreign.shorten import whole
from models.foreign.trace import state_of

TOLERANCE = 1e-4  # of the largest logit; right cuts are below 1e-5, wrong ones above 1e-2


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What the proof found.

    Attributes:
        moved: the largest change of a logit when units changed places, over the largest logit.
        differs: the largest difference of a logit between a part and the whole graph, over the largest logit.
        wrong: axes whose units are not alike, with the change that each makes.
        shortened: the largest difference of a logit where blocks are left out, over the largest logit.
    """

    moved: float
    differs: float
    wrong: Mapping[str, float]
    shortened: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether every axis is right."""
        return not self.wrong and self.differs < TOLERANCE


def prove(module: nn.Module, found: Found, example: Tensor, generator: torch.Generator) -> Proof:
    """Prove axes on a module, whose tensors are as before afterwards.

    Args:
        module: in whatever mode; it is left in evaluation mode.
        found: its axes.
        example: inputs.
        generator: of tensors and units.
    """
    module.eval()
    with torch.no_grad(), _random(module, generator):
        logits = module(example)
        scale = float(logits.abs().max())
        axes = [atom for atom, name in found.atoms.items() if found.axes[name].kind is Kind.WIDTH]
        orders = {atom: torch.randperm(atom.size, generator=generator) for atom in axes}

        def change(some: Sequence[Atom]) -> float:
            with _permuted(module, found, {atom: orders[atom] for atom in some}):
                return _ratio(module(example) - logits, scale)

        moved = change(axes)
        wrong = {}
        if not moved < TOLERANCE:
            changes = {found.atoms[atom]: change([atom]) for atom in axes}
            wrong = {name: by for name, by in changes.items() if not by < TOLERANCE}
            wrong = wrong or changes
        units = {atom: orders[atom][: ceil(atom.size / 2)].sort().values for atom in axes}
        differs = max(_graph_error(module, found, example, logits), _cut_error(module, found, example, units))
        shortened = _depth_error(module, found, example, logits) if found.stages.blocks else 0.0
    return Proof(moved=moved, differs=differs, wrong=wrong, shortened=shortened)


def _ratio(difference: Tensor, scale: float) -> float:
    worst = float(difference.abs().max())
    return worst / scale if worst == worst and scale > 0 else float("inf")


def _graph_error(module: nn.Module, found: Found, example: Tensor, logits: Tensor) -> float:
    full, state = build_part(found, {}).eval(), state_of(module)
    full.load_state_dict({name: state[name].detach() for name in found.traced.tensors})
    return _ratio(full(example) - logits, float(logits.abs().max()))


def _cut_error(module: nn.Module, found: Found, example: Tensor, units: Mapping[Atom, Tensor]) -> float:
    state = {name: tensor.detach() for name, tensor in state_of(module).items()}
    part = build_part(found, {found.atoms[atom]: len(kept) for atom, kept in units.items()}).eval()
    sliced, zeroed = {}, {}
    for name, held in found.traced.tensors.items():
        sliced[name], zeroed[name] = state[name], state[name].clone()
        for place, dim in enumerate(held.dims):
            kept = kept_coordinates(dim, units)
            sliced[name] = sliced[name].index_select(place, kept)
            others = torch.ones(state[name].shape[place], dtype=torch.bool).index_fill(0, kept, False)
            zeroed[name][(slice(None),) * place + (others,)] = 0
    part.load_state_dict(sliced)
    full = build_part(found, {}).eval()
    full.load_state_dict(zeroed)
    logits = _Zeroed(full, found, units).run(example)
    return _ratio(part(example) - logits, float(logits.abs().max()))


class _Share(nn.Module):
    """Multiplies by a number."""

    factor = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Scale."""
        return x * self.factor


def _depth_error(module: nn.Module, found: Found, example: Tensor, logits: Tensor) -> float:
    state = {name: tensor.detach() for name, tensor in state_of(module).items()}
    full, shares = whole(found.stages), list[_Share]()

    def make_share() -> nn.Module:
        shares.append(_Share())
        return shares[-1]

    def loaded(part: nn.Module) -> nn.Module:
        part.load_state_dict({name: state[name] for name in part.state_dict()})
        return part.eval()

    scaled = loaded(build_part(found, {}, length=replace(full, steps=True), make_step=make_share))
    worst = _ratio(scaled(example) - logits, float(logits.abs().max()))
    for half in (0, 1):  # every other block, so that one stands between those that are left out
        dropped = frozenset(block for block in found.stages.blocks if block % 2 == half)
        without = loaded(build_part(found, {}, length=replace(full, dropped=dropped)))
        for share, block in zip(shares, found.stages.blocks, strict=True):
            share.factor = 0.0 if block in dropped else 1.0
        expected = scaled(example)
        worst = max(worst, _ratio(without(example) - expected, float(expected.abs().max())))
    return worst


def kept_coordinates(dim: Extent, units: Mapping[Atom, Tensor]) -> Tensor:
    """Kept coordinates of a dimension, ascending within every axis."""
    kept = torch.zeros(1, dtype=torch.int64)
    for atom in factors_of(dim):
        if atom.parts:
            pieces, start = [], 0
            for part in atom.parts:
                pieces.append(kept_coordinates(part, units) + start)
                start += size_of(part)
            own = torch.cat(pieces)
        else:
            own = units.get(atom, torch.arange(atom.size))
        kept = (kept[:, None] * atom.size + own).flatten()
    return kept


class _Zeroed(fx.Interpreter):
    """Runs the whole graph as evaluation does, what is computed over a cut dimension over its kept coordinates."""

    def __init__(self, whole: nn.Module, found: Found, units: Mapping[Atom, Tensor]) -> None:
        graph = found.traced.graphs[False]
        super().__init__(whole, graph=graph)
        self._found, self._units = found, units

    def run_node(self, n: fx.Node) -> Any:
        """Compute one node."""
        if n.op == "get_attr" and not n.users:  # a part leaves out what counts batches
            return None
        counts = self._found.traced.counts.get(n)
        places = [place for place in counts.over if self._cut(counts.dims[place])] if counts else []
        if not places or counts is None:
            computed = super().run_node(n)
            return computed.nan_to_num(0.0) if _is_weight_norm(n) else computed  # a direction of zeros has no length
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        target = n.target
        assert callable(target)
        name = getattr(target, "__name__", "")
        if name.startswith(("layer_norm", "rms_norm", "_weight_norm")):
            return self._norm(target, counts, places, (args, kwargs))
        inputs = args[0]
        for place in places:
            inputs = inputs.index_select(place, kept_coordinates(counts.dims[place], self._units))
        return target(inputs, *args[1:], **kwargs)

    def _norm(
        self, target: Callable[..., Tensor], counts: Counts, places: Sequence[int], given: tuple[Any, Any]
    ) -> Tensor:
        args, kwargs = list(given[0]), given[1]
        inputs: Tensor = args[0]
        kept = {place: kept_coordinates(counts.dims[place], self._units) for place in places}
        if isinstance(args[1], list | tuple):
            first = inputs.ndim - len(args[1])
            args[1] = [len(kept[first + i]) if first + i in kept else size for i, size in enumerate(args[1])]
            for i in range(2, len(args)):
                if isinstance(args[i], Tensor):
                    for place, index in kept.items():
                        args[i] = args[i].index_select(place - first, index)
        small = inputs
        for place, index in kept.items():
            small = small.index_select(place, index)
        small = target(small, *args[1:], **kwargs)
        for place, index in kept.items():
            shape = list(small.shape)
            shape[place] = inputs.shape[place]
            small = small.new_zeros(shape).index_copy(place, index, small)
        return small.nan_to_num(0.0)

    def _cut(self, dim: Extent) -> bool:
        return any(atom in self._units for atom in atoms_of(dim))


def _is_weight_norm(node: fx.Node) -> bool:
    return getattr(node.target, "__name__", "").startswith("_weight_norm")


@contextmanager
def _random(module: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Draw every tensor that a part has of its own at random, then give back what it was."""
    state = {name: tensor.detach() for name, tensor in state_of(module).items()}
    before = {name: tensor.clone() for name, tensor in state.items()}
    for tensor in state.values():
        if not tensor.numel():
            continue
        draws = torch.rand(tensor.shape, generator=generator)
        if tensor.ndim > 1:  # as large as keeps activations as they are
            tensor.copy_((draws * 2 - 1) * sqrt(3 * tensor.shape[0] / tensor.numel()))
        else:  # gains, biases and variances
            tensor.copy_(draws * 0.6 + 0.7)
    try:
        yield
    finally:
        for name, tensor in state.items():  # not by `load_state_dict`, of which modules have their own
            tensor.copy_(before[name])


@contextmanager
def _permuted(module: nn.Module, found: Found, orders: Mapping[Atom, Tensor]) -> Iterator[None]:
    state = state_of(module)
    before: dict[str, Tensor] = {}
    for name, held in found.traced.tensors.items():
        if any(atom in orders for dim in held.dims for atom in atoms_of(dim)):
            before[name] = state[name].detach().clone()
            moved = before[name]
            for place, dim in enumerate(held.dims):
                moved = moved.index_select(place, kept_coordinates(dim, orders))
            state[name].detach().copy_(moved)
    try:
        yield
    finally:
        for name, tensor in before.items():
            state[name].detach().copy_(tensor)
