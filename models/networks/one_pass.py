"""What the networks of several parts of one state answer, from one pass: stages that are the same are computed once.

Parts that are cut in depth hold the same first stages: the exits of a smaller one in DepthFL are the first exits of a
larger one, and in InclusiveFL, where every size has a last stage of its own, the stages below it are everybody's. What
is the same is read off what parts declare, never off names. Two stages are the same if

- they are built alike: one spec, and plans that differ in their depth alone, and in which exits they keep;
- every tensor up to there is the same block of the same state, and no block has a mask;
- no norm has statistics of a part's own, as static batch norm has: such parts go through passes of their own.

Then the same operations see the same numbers, so answers are those of separate passes, bit for bit. An exit is the same
if the stages up to it are and its own tensors. Of a network that is one graph (`models.foreign`) stages cannot be run
one by one: smaller parts are answered for by one that has all of their exits, or go through passes of their own.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from models.algebra.axes import SHARED
from models.algebra.plans import Plan
from models.algebra.submodel import Submodel
from models.foreign.part import Part
from models.networks.build import layout
from models.networks.spec import NetworkSpec
from models.networks.staged import Staged
from models.norms.layers import StaticBatchNorm
from models.predictions import predictions

_Step = tuple[Hashable, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The network of a part.

    Attributes:
        network: as `build_part` makes it.
        plan: which part.
        part: the same as blocks of the state that is loaded into it.
    """

    network: nn.Module
    plan: Plan
    part: Submodel


@dataclass(frozen=True, slots=True, kw_only=True)
class _Path:
    """A network as what it computes, equal where it is the same.

    Attributes:
        stages: everything up to each stage, the first one's stem included.
        exits: stage → what answers after it, and everything up to there; shallowest first.
    """

    stages: Sequence[_Step]
    exits: Mapping[int, _Step]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """One network's turn in a pass: it begins after `start` stages that were run in earlier turns."""

    network: nn.Module
    path: _Path
    start: int


class OnePass:
    """Inputs → the logits of every exit of each of several networks, as `predictions` gives them.

    Args:
        members: which of the networks that were divided among passes.
        networks: those, in evaluation mode when it is called.
        paths: what each computes; needed where there are several.

    Attributes:
        members: as above.
    """

    def __init__(self, members: Sequence[int], networks: Sequence[nn.Module], paths: Sequence[_Path]) -> None:
        self.members, self._first = members, networks[0]
        self._wanted = [list(path.exits.values()) for path in paths]
        self._turns, made, run = list[_Turn](), set[_Step](), set[_Step]()
        for i in sorted(range(len(paths)), key=lambda i: (len(paths[i].stages), len(paths[i].exits)), reverse=True):
            missing = [stage for stage, step in paths[i].exits.items() if step not in made]
            if not missing:
                continue  # others answer for it
            start = 0
            if isinstance(networks[i], Staged):
                start = min(missing[0], sum(step in run for step in paths[i].stages))
                run.update(paths[i].stages)
            self._turns.append(_Turn(network=networks[i], path=paths[i], start=start))
            made.update(self._wanted[i])
        self._left = {turn.path.stages[turn.start - 1] for turn in self._turns if turn.start}

    def __call__(self, x: Tensor) -> list[list[Tensor]]:
        """Logits by network, in the order of the members."""
        if len(self.members) == 1:
            return [predictions(self._first, x)]
        features, logits = dict[_Step, Any](), dict[_Step, Tensor]()
        for turn in self._turns:
            network, path = turn.network, turn.path
            if not isinstance(network, Staged):
                logits |= zip(path.exits.values(), predictions(network, x), strict=True)
                continue
            begun = features[path.stages[turn.start - 1]] if turn.start else x
            for stage, made in network.after_stages(begun, done=turn.start):
                if path.stages[stage - 1] in self._left:
                    features[path.stages[stage - 1]] = made
                if stage in path.exits and path.exits[stage] not in logits:
                    logits[path.exits[stage]] = network.exit_after(stage)(made)
        return [[logits[step] for step in wanted] for wanted in self._wanted]


def in_passes(spec: NetworkSpec, several: Sequence[Held]) -> list[OnePass]:
    """Divide networks of parts of one state among passes, as few as are enough.

    Args:
        spec: of the full network.
        several: networks of its parts, alike in whatever else their answers depend on; what is in them is not looked
            at.
    """
    together = dict[Hashable, list[tuple[int, _Path]]]()
    for i, one in enumerate(several):
        path = _path(spec, one) if _has_steps(one) else _Path(stages=(), exits={})
        shares = len(path.stages) in path.exits
        together.setdefault(path.stages[0] if shares else i, []).append((i, path))
    return [
        OnePass([i for i, _ in found], [several[i].network for i, _ in found], [path for _, path in found])
        for found in together.values()
    ]


def _has_steps(one: Held) -> bool:
    """Whether what a network computes follows from what its part declares, stage by stage."""
    kind = type(one.network)
    staged = issubclass(kind, Staged) and (kind.forward, kind.predictions) == (Staged.forward, Staged.predictions)
    own = any(isinstance(module, StaticBatchNorm) for module in one.network.modules())
    return (staged or kind is Part) and not own and all(block.mask is None for block in one.part.values())


def _path(spec: NetworkSpec, one: Held) -> _Path:
    """What a network computes, stage by stage, from what is declared of the tensors that it holds.

    Without stages, if its exits are others than those that it holds tensors of.
    """
    whole, network = layout(replace(spec, private=(), variants=())), one.network
    of_stage, of_exit = dict[int, set[Hashable]](), dict[int, set[Hashable]]()
    for name, block in one.part.items():
        place = whole.tensors[name]
        held = of_exit.setdefault(place.exit, set()) if place.exit else of_stage.setdefault(place.stage, set())
        held.add((name, block))
    if isinstance(network, Staged):  # of which only a head may be held, and then no tensor stands in a stage
        depth = len(network.stages)
        told = [stage for stage in range(1, depth + 1) if network.has_exit_after(stage)]
    else:
        depth, told = one.plan.depth or max((whole.depth, *whole.exits)), None
    ends = {depth: of_exit[SHARED]} if SHARED in of_exit else dict(sorted(of_exit.items()))
    if max(ends, default=0) > depth or told not in (None, list(ends)):
        return _Path(stages=(), exits={})
    stages = list[_Step]()
    step: _Step = (replace(one.plan, depth=None, own_exit=False), frozenset(of_stage.get(0, ())))
    for stage in range(1, depth + 1):
        step = (step, frozenset(of_stage.get(stage, ())))
        stages.append(step)
    return _Path(stages=stages, exits={end: (stages[end - 1], frozenset(held), "exit") for end, held in ends.items()})
