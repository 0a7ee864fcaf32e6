"""Where a traced module can be cut in depth: its residual blocks and its stages, from its graphs alone.

- A *block* is a residual branch x + F(x): left out, x stays. Its input and the sum have the same dimensions.
- A *stage* is a run of blocks whose sums have the same dimensions, as the stages of a ResNet have. Where all of them
  do, as in a transformer, branches repeat (attention, feed-forward, attention, ...), and a stage, which is one block
  then, is as many of them as repeat.
- What an activation or a norm makes of a stage's last sum belongs to the stage. What comes before the first block is
  held at every depth, what comes after the last stage is the module's own exit.

Instead, the user may name modules after which the network can end.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import fx

from models.algebra.axes import Place
from models.foreign.atoms import Atom, Extent, atoms_of, factors_of, size_of
from models.foreign.chain import Branch, Chain, chain_of
from models.foreign.rules.elementwise import ONE
from models.foreign.trace import NORMS, Traced, operation

_FEW = 8  # modules that an error names
_FOLLOWS = {*ONE.split(), *NORMS}  # what may come between a stage's last sum and its end


class NoStage(ValueError):
    """A module after which no network can end; one line says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cuts:
    """Where one graph can be cut.

    Attributes:
        ends: the node that every stage ends in.
        branches: the residual branches that belong to blocks.
        stream: nodes that lead to the output.
    """

    ends: tuple[fx.Node, ...]
    branches: tuple[Branch, ...]
    stream: Collection[fx.Node]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """Where a module can be cut in depth.

    Attributes:
        graphs: its graphs, by whether they train.
        blocks: number of every branch's block, from 1.
        stages: stage of every branch.
        places: where every tensor stands; the module's own exit is that of the last stage.
        features: of the features at the end of every stage, the place of the dimension that a linear layer reads.
        dims: of these features.
        normed: whether what reads them first normalises them.
    """

    graphs: Mapping[bool, Cuts]
    blocks: tuple[int, ...] = ()
    stages: tuple[int, ...] = ()
    places: Mapping[str, Place]
    features: tuple[int, ...] = ()
    dims: tuple[tuple[Extent, ...], ...] = ()
    normed: tuple[bool, ...] = ()

    @property
    def count(self) -> int:
        """Number of stages; 0 where it cannot be cut in depth."""
        return len(self.dims)

    @property
    def alike(self) -> bool:
        """Whether the features have the same dimensions after every stage, so that one exit can follow each."""
        return all(_roots(one) == _roots(other) for one, other in pairwise(self.dims))

    def described(self) -> list[object]:
        """What two processes compare."""
        places = [[name, one.stage, one.exit, one.block] for name, one in self.places.items()]
        return [places, list(self.blocks), list(self.features), list(self.normed)]


NO_STAGES = Stages(graphs={}, places={})


def find_stages(traced: Traced, free: Collection[Atom], named: Sequence[str] = ()) -> Stages:
    """Find blocks and stages.

    Args:
        traced: the module.
        free: what is cut of it.
        named: modules after which it can end; none: they are found.

    Returns:
        Without stages where there are fewer than two, or where the graphs of training and evaluation differ in them.

    Raises:
        NoStage: one of the named modules is none after which it can end.
    """
    found: dict[bool, Stages] = {}
    for training, graph in traced.graphs.items():
        chain = chain_of(graph, traced.tensors)
        found[training] = _stages(traced, chain, free, named, training=training)
    one, other = found[True], found[False]
    if one.described() != other.described():
        return NO_STAGES
    return Stages(
        graphs={**one.graphs, **other.graphs},
        blocks=one.blocks,
        stages=one.stages,
        places=one.places,
        features=one.features,
        dims=one.dims,
        normed=one.normed,
    )


def _stages(traced: Traced, chain: Chain, free: Collection[Atom], named: Sequence[str], *, training: bool) -> Stages:
    if named:
        ends, groups = _named(chain, named), [[one] for one in chain.branches]
    else:
        ends, groups = _found(traced, chain, free)
    dims = [traced.dims[chain.links[end]] for end in ends]
    features = [_features(one, free) for one in dims]  # type: ignore[arg-type]
    if len(ends) < 2 or None in features:
        ends, groups, dims, features = [], groups if len(groups) > 1 else [], [], []
    branches = [branch for group in groups for branch in group]
    stages = [sum(end < branch.link for end in ends) + 1 for branch in branches]
    kept = [stage <= max(1, len(ends)) for stage in stages]  # those behind the last stage stay
    numbers = [number for number, group in enumerate(groups, 1) for _ in group]
    branches = [branch for branch, keep in zip(branches, kept, strict=True) if keep]
    cuts = Cuts(
        ends=tuple(chain.links[end] for end in ends),
        branches=tuple(branches),
        stream=chain.stream.keys(),
    )
    of_link = {branch.link: number for branch, number in zip(branches, numbers, strict=False)}
    return Stages(
        graphs={training: cuts},
        blocks=tuple(of_link.values()),
        stages=tuple(stages[: len(branches)]),
        places=_places(traced, chain, ends, of_link),
        features=tuple(features),  # type: ignore[arg-type]
        dims=tuple(tuple(one) for one in dims),  # type: ignore[arg-type]
        normed=tuple(_is_normed(chain.links[end]) for end in ends),
    )


def _places(traced: Traced, chain: Chain, ends: Sequence[int], blocks: Mapping[int, int]) -> dict[str, Place]:
    """Where every tensor stands, by the links that read it."""
    places, first = {}, min([*blocks, len(chain.links)]) - 1  # the link that the first block begins at
    for name in traced.tensors:
        links = chain.readers.get(name, set())
        block = {blocks.get(link, 0) for link in links}
        reached = {0 if link <= first and blocks else sum(end < link for end in ends) + 1 for link in links}
        stage = min(reached, default=0) if ends else 0
        last = bool(ends) and stage > len(ends)
        places[name] = Place(
            stage=0 if last else stage, exit=len(ends) if last else 0, block=block.pop() if len(block) == 1 else 0
        )
    return places


def _found(traced: Traced, chain: Chain, free: Collection[Atom]) -> tuple[list[int], list[list[Branch]]]:
    """Links that stages end at, and the branches of every block."""
    runs: list[list[Branch]] = []
    for before, branch in zip((None, *chain.branches), chain.branches, strict=False):
        if before is not None and _stream(traced, before, free) == _stream(traced, branch, free):
            runs[-1].append(branch)
        else:
            runs.append([branch])
    groups = [[branch] for branch in chain.branches]
    if len(runs) == 1:
        runs = groups = _repeated(traced, chain)
    ends = [run[-1].link for run in runs]
    if not ends:
        return [], []
    reach = [_extended(chain, end) for end in ends]
    reach[-1] = min([reach[-1], ends[-1] + min((one - end for one, end in zip(reach, ends, strict=True)), default=0)])
    return reach, groups


def _stream(traced: Traced, branch: Branch, free: Collection[Atom]) -> list[object]:
    """What tells one stream of features from another."""
    dims: list[Extent] = traced.dims[branch.added]  # type: ignore[assignment]
    return [(size_of(dim), [atom for atom in atoms_of(dim) if atom in free]) for dim in dims[1:]]


def _repeated(traced: Traced, chain: Chain) -> list[list[Branch]]:
    """Branches of one stream, as many together as repeat: of a transformer, attention and feed-forward."""
    tensors: dict[int, list[object]] = {}
    for name, links in chain.readers.items():
        for link in links:
            tensors.setdefault(link, []).append(tuple(size_of(dim) for dim in traced.tensors[name].dims))
    kinds = [sorted(tensors[branch.link], key=str) for branch in chain.branches]
    count = len(kinds)
    period = next(
        (n for n in range(1, count // 2 + 1) if count % n == 0 and kinds[n:] == kinds[:-n]),
        1,
    )
    return [list(chain.branches[i : i + period]) for i in range(0, count, period)]


def _extended(chain: Chain, end: int) -> int:
    """The last link that an activation or a norm makes of an end."""
    while end + 2 < len(chain.links) and chain.alone(end + 1) and operation(chain.links[end + 1]) in _FOLLOWS:
        end += 1
    return end


def _features(dims: Sequence[Extent], free: Collection[Atom]) -> int | None:
    """Place of the only dimension of features; None where it cannot be told."""
    cut = [place for place, dim in enumerate(dims) if place and any(atom in free for atom in atoms_of(dim))]
    summed = [place for place, dim in enumerate(dims) if place and any(atom.multiplied for atom in atoms_of(dim))]
    return next((places[0] for places in (cut, summed) if len(places) == 1), None)


def _is_normed(end: fx.Node) -> bool:
    return any(operation(user) in ("layer_norm", "rms_norm") for user in end.users)


def _roots(dims: Sequence[Extent]) -> list[object]:
    return [(size_of(dim), [atom for atom in factors_of(dim) if atom.multiplied]) for dim in dims[1:]]


def _named(chain: Chain, named: Sequence[str]) -> list[int]:
    """Links that named modules end at; of a list of modules, each of those in it."""
    last: dict[str, fx.Node] = {}
    for node in chain.stream:
        for path, *_ in (node.meta.get("nn_module_stack") or {}).values():
            last[path] = node
    places = {node: link for link, node in enumerate(chain.links[:-1])}
    paths = [path for name in named for path in _entries(name, last)]
    ends = []
    for path in paths:
        if path not in last or last[path] not in places:
            some = [one for one, node in last.items() if one and node in places]
            said = f"{', '.join(some[:_FEW])}{' and others' if len(some) > _FEW else ''}"
            raise NoStage(f"modules whose output is all that later ones see ({path!r} is none): {said or 'none'}")
        ends.append(places[last[path]])
    if ends != sorted(set(ends)) or len(ends) < 2:
        raise NoStage("at least two modules, in the order in which they run")
    return ends


def _entries(name: str, known: Collection[str]) -> list[str]:
    inside = [path for path in known if re.fullmatch(rf"{re.escape(name)}\.\d+", path)]
    return [name] if name in known or not inside else inside
