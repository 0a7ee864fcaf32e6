"""Leaves blocks out of a graph, multiplies branches by step sizes, and puts exits in after stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import fx, nn

from models.algebra.axes import SHARED, Place
from models.foreign.stages import Cuts, Stages
from models.foreign.trace import operation

MakeExit = Callable[[int], nn.Module]  # stage → what makes logits of its features
MakeStep = Callable[[], nn.Module]  # what multiplies a branch by a learnt number
STEPS, EXITS = "added_steps", "added_exits"  # where their modules stand in a part; users have steps and exits, too


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """What a part has of a network in depth.

    Attributes:
        depth: number of stages.
        exits: stages that have an exit, ascending; that of the last stage is the module's own.
        shared: whether the module's own exit follows the last stage that is held, whichever it is.
        dropped: blocks that are left out.
        steps: whether branches are multiplied by a learnt step size.
    """

    depth: int
    exits: tuple[int, ...]
    shared: bool = False
    dropped: frozenset[int] = frozenset()
    steps: bool = False

    def holds(self, place: Place) -> bool:
        """Whether a tensor of the module is held."""
        own_exit = self.shared or place.exit in self.exits or not place.exit
        return place.stage <= self.depth and own_exit and place.block not in self.dropped

    def placed(self, place: Place) -> Place:
        """Where a tensor of the module stands: a shared exit is that of every depth."""
        return Place(stage=place.stage, exit=SHARED, block=place.block) if self.shared and place.exit else place


def whole(stages: Stages) -> Length:
    """The module as it is."""
    return Length(depth=stages.count, exits=(stages.count,))


def steps_of(stages: Stages, length: Length) -> list[int]:
    """Branches that are held, numbered from 1, and have step sizes."""
    numbered = zip(stages.stages, stages.blocks, strict=True)
    held = [n for n, (stage, block) in enumerate(numbered, 1) if stage <= length.depth and block not in length.dropped]
    return held if length.steps else []


def shorten(graph: fx.Graph, nodes: Mapping[fx.Node, fx.Node], stages: Stages, cuts: Cuts, length: Length) -> None:
    """Change a copy of a graph; its output is then the logits of its exits, shallowest first.

    Args:
        graph: the copy.
        nodes: node of the original → its copy.
        stages: of the network.
        cuts: where the original can be cut.
        length: what the part has.
    """
    for number in steps_of(stages, length):
        branch = cuts.branches[number - 1]
        with graph.inserting_before(nodes[branch.added]):
            step = graph.call_module(f"{STEPS}.{number}", (nodes[branch.branch],))
        nodes[branch.added].replace_input_with(nodes[branch.branch], step)
    stands = dict(nodes)  # in place of a sum whose block is left out stands its input
    for branch, block in zip(cuts.branches, stages.blocks, strict=True):
        if block in length.dropped:
            stands[branch.added] = stands[branch.entry]
            nodes[branch.added].replace_all_uses_with(stands[branch.added])
            _keep(stands[branch.added])
    ends = [stands[end] for end in cuts.ends]
    output = next(iter(reversed(graph.nodes)))
    logits = list(output.all_input_nodes)
    if stages.count:
        own = logits if length.shared or stages.count in length.exits else []
        logits = [_exit(graph, stage, ends[stage - 1]) for stage in length.exits if stage < stages.count] + own
        if length.shared and length.depth < stages.count:
            ends[-1].replace_all_uses_with(ends[length.depth - 1])
    output.args = (logits[0] if len(logits) == 1 else tuple(logits),)
    copies = {nodes[node] for node in cuts.stream}
    for node in reversed(graph.nodes):
        if not node.users and node in copies:
            graph.erase_node(node)


def _exit(graph: fx.Graph, stage: int, end: fx.Node) -> fx.Node:
    _keep(end)
    with graph.inserting_after(end):
        return graph.call_module(f"{EXITS}.{stage}", (end,))


def _keep(node: fx.Node) -> None:
    """Let no operation change a node's value in place: somebody else reads it now, or needs it for its gradient."""
    for user in node.users:
        name = operation(user)
        if user.op != "call_function" or not name.endswith("_") or user.args[0] is not node:
            continue
        plain = getattr(torch.ops.aten, name[:-1], None)
        overload = str(getattr(user.target, "_overloadname", "")) or "default"
        if plain is not None and overload in plain.overloads():
            user.target = getattr(plain, overload)


def deepest(graph: fx.Graph) -> fx.Graph:
    """A graph of several exits → of the deepest one alone."""
    alone = fx.Graph()
    copied = alone.graph_copy(graph, {})
    assert isinstance(copied, tuple | list)
    alone.output(copied[-1])
    for node in reversed(alone.nodes):
        if node.op == "call_module" and not node.users:
            alone.erase_node(node)
    return alone
