"""The network of a part: the exported graph with its numbers rewritten, over tensors of the part's sizes.

Nothing of the user's module is asked: what counts coordinates in the graph is known from the trace. Training and
evaluation have a graph each, and share every tensor.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from models.adapters.adapter import Adapter
from models.adapters.low_rank import names_of_pairs, weights_beside
from models.algebra.declarations import declare
from models.algebra.precisions import FLOAT32
from models.foreign.adapted import add_pairs_to_graphs, performs
from models.foreign.atoms import atoms_of, size_of
from models.foreign.axes import Found
from models.foreign.batch_norms import MakeNorm, replace_norm
from models.foreign.lower import lower_in_graphs
from models.foreign.rules import Counts
from models.foreign.shorten import EXITS, STEPS, Length, MakeExit, MakeStep, deepest, shorten, steps_of, whole
from models.foreign.sizes import Sizes


class Part(nn.Module):
    """A network that runs a graph, another one while it trains. Its tensors have the names of the original's."""

    def __init__(self) -> None:
        super().__init__()
        self._run: dict[bool, Callable[[nn.Module, Tensor], Tensor]] = {}
        self._run_all: dict[bool, Callable[[nn.Module, Tensor], Sequence[Tensor]]] = {}

    def add(self, graphs: Mapping[bool, fx.Graph]) -> None:
        """Compile the graphs, whose tensors and layers are in place."""
        for training, graph in graphs.items():
            if len(next(iter(reversed(graph.nodes))).all_input_nodes) > 1:
                self._run_all[training] = type(fx.GraphModule(self, graph)).forward
                graph = deepest(graph)
            self._run[training] = type(fx.GraphModule(self, graph)).forward

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, classes) of the deepest exit."""
        return self._run[self.training](self, inputs)

    def predictions(self, inputs: Tensor) -> list[Tensor]:
        """Logits of every exit, shallowest first."""
        run = self._run_all.get(self.training)
        return [self(inputs)] if run is None else list(run(self, inputs))


def build_part(
    found: Found,
    sizes: Mapping[str, int],
    make_norm: MakeNorm | None = None,
    *,
    length: Length | None = None,
    make_exit: MakeExit | None = None,
    make_step: MakeStep | None = None,
    adapter: Adapter | None = None,
) -> Part:
    """Build the network of a part, its tensors zero and declared.

    Args:
        found: what can be cut.
        sizes: kept units by axis.
        make_norm: makes what stands in place of a batch norm; None keeps those of the original.
        length: what the part has in depth; None: everything.
        make_exit: makes the exits that the original has not.
        make_step: makes step sizes.
        adapter: gives layers that do not count classes pairs of factors, whose kept ranks are among the sizes.
    """
    kept, part, stages = Sizes(found, sizes), Part(), found.stages
    length = length or whole(stages)
    held = {name: one for name, one in found.traced.tensors.items() if length.holds(stages.places[name])}
    graphs = {training: _copied(graph) for training, graph in found.traced.graphs.items()}
    norms: dict[str, tuple[nn.Module, str]] = {}
    gone: set[str] = set()
    for training, (graph, nodes) in graphs.items():
        for old, node in nodes.items():
            if counts := found.traced.counts.get(old):
                _rewrite(graph, node, counts, kept)
        if length != whole(stages):
            shorten(graph, nodes, stages, stages.graphs[training], length)
        if make_norm is not None:
            for node in list(graph.nodes):
                if performs(node, "batch_norm"):
                    gone |= replace_norm(found, graph, node, (kept, make_norm, norms))
        _clean(graph)
    places = {name: length.placed(stages.places[name]) for name in held}
    for name, one in held.items():
        if name not in gone:
            tensor = torch.zeros([kept.of(dim) for dim in one.dims])
            owner = _place(part, name, nn.Parameter(tensor) if one.parameter else tensor, persistent=True)
            leaf = name.rpartition(".")[2]
            declare(owner, {leaf: found.dims[name]}, places={leaf: places[name]})
    for path in _norms({name: one.norm for name, one in held.items() if name not in gone}):
        declare(part.get_submodule(path), role="norm")
    for path, (layer, weight) in norms.items():
        place = places[weight]
        _place(part, path, declare(layer, stage=place.stage, exit_of=place.exit, block=place.block))
    for number in steps_of(stages, length):
        assert make_step is not None
        step = declare(make_step(), stage=stages.stages[number - 1], block=stages.blocks[number - 1])
        _place(part, f"{STEPS}.{number}", step)
    for stage in length.exits:
        if make_exit is not None and stage < stages.count:
            _place(part, f"{EXITS}.{stage}", declare(make_exit(stage), exit_of=stage))
    read = {str(node.target) for graph, _ in graphs.values() for node in graph.nodes if node.op == "get_attr"}
    for name in sorted(read & set(found.traced.constants)):
        constant = found.traced.constants[name]
        if isinstance(constant, Tensor):
            constant = _cut_constant(constant.detach(), found, name, kept).to(torch.zeros(0).device)
        _place(part, name, constant)
    if adapter is not None:
        add_pairs_to_graphs(
            part,
            [graph for graph, _ in graphs.values()],
            adapter=adapter,
            sizes=sizes,
            dims={name: found.dims[name] for name in held},
            places=places,
            but=found.heads.__contains__,
        )
        if adapter.precision != FLOAT32:
            trained = found.heads | names_of_pairs(part) | set(weights_beside(part).values() if adapter.merges else ())
            lower_in_graphs(part, [graph for graph, _ in graphs.values()], trained=trained.__contains__)
    part.add({training: graph for training, (graph, _) in graphs.items()})
    return part


def _norms(held: Mapping[str, bool]) -> list[str]:
    """Modules all of whose tensors belong to a norm; `held` says of every tensor whether it does."""
    owners = {path for name in held if (path := name.rpartition(".")[0])}
    return [path for path in sorted(owners) if all(held[name] for name in held if name.startswith(f"{path}."))]


def _copied(graph: fx.Graph) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """A copy, and old node → new node."""
    new, nodes = fx.Graph(), dict[fx.Node, fx.Node]()
    new.output(new.graph_copy(graph, nodes))
    return new, nodes


def _rewrite(graph: fx.Graph, node: fx.Node, counts: Counts, kept: Sizes) -> None:
    for argument, number in counts.numbers.items():
        place, given = _argument(node, argument)
        if isinstance(given, list | tuple):
            new: Any = [_number(graph, node, one, several, kept) for one, several in zip(given, number, strict=True)]
        elif given is None:
            continue
        else:
            new = _number(graph, node, given, number, kept)
        _set(node, argument, place, new)
    if counts.pieces is not None:
        place, pieces = counts.pieces
        lengths = [kept.of(piece) for piece in pieces]
        if lengths != [size_of(piece) for piece in pieces]:
            node.target = torch.ops.aten.split_with_sizes.default
            node.args, node.kwargs = (node.args[0], lengths, place), {}


def _number(graph: fx.Graph, node: fx.Node, given: Any, several: Any, kept: Sizes) -> Any:
    """What a number becomes that is the sum of these sizes."""
    full, now = sum(map(size_of, several)), sum(map(kept.of, several))
    if full == now or given == -1:
        return given
    if not isinstance(given, fx.Node):
        return now
    with graph.inserting_before(node):  # a symbol, as batch x heads is
        return graph.call_function(operator.floordiv, (graph.call_function(operator.mul, (given, now)), full))


def _argument(node: fx.Node, name: str) -> tuple[int | None, Any]:
    """Place among the positional arguments (None: it stands, or would stand, by name) and value of an argument."""
    assert isinstance(node.target, torch._ops.OpOverload)
    for place, one in enumerate(node.target._schema.arguments):
        if one.name == name and place < len(node.args):
            return place, node.args[place]
    return None, node.kwargs.get(name)


def _set(node: fx.Node, name: str, place: int | None, value: Any) -> None:
    if place is None:
        node.kwargs = {**node.kwargs, name: value}
    else:
        node.args = (*node.args[:place], value, *node.args[place + 1 :])


def _clean(graph: fx.Graph) -> None:
    """Leave out what only checks or counts, and make new tensors where the inputs are."""
    inputs = next(node for node in graph.nodes if node.op == "placeholder")
    device: fx.Node | None = None
    for node in list(graph.nodes):
        if performs(node, "_assert_tensor_metadata") or node.target is torch._check or _counts_batches(node):
            graph.erase_node(node)
        elif isinstance(node.kwargs.get("device"), torch.device) or _moves(node):
            if device is None:
                with graph.inserting_after(inputs):
                    device = graph.call_function(getattr, (inputs, "device"))
            place, _ = _argument(node, "device")
            _set(node, "device", place, device)
    for node in reversed(graph.nodes):
        if not node.users and (node.op == "get_attr" or (node.op == "call_function" and not _changes(node))):
            graph.erase_node(node)
    graph.lint()


def _counts_batches(node: fx.Node) -> bool:
    """Whether a node adds to an integer of the module, such as the number of batches that a norm has seen."""
    if not performs(node, "add_") or node.users:
        return False
    target = node.args[0]
    value = target.meta.get("val") if isinstance(target, fx.Node) and target.op == "get_attr" else None
    return isinstance(value, Tensor) and not value.is_floating_point()


def _changes(node: fx.Node) -> bool:
    """Whether an operation changes one of its operands, so that it counts although nobody reads its result."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _moves(node: fx.Node) -> bool:
    return performs(node, "to") and isinstance(_argument(node, "device")[1], torch.device)


def _cut_constant(constant: Tensor, found: Found, name: str, kept: Sizes) -> Tensor:
    """A constant whose coordinates along what is cut are all alike, as long as is needed."""
    node = next(
        node
        for graph in found.traced.graphs.values()
        for node in graph.nodes
        if node.op == "get_attr" and node.target == name
    )
    for place, dim in enumerate(found.traced.dims[node] or []):
        if any(kept.are_cut(atom) for atom in atoms_of(dim)):  # type: ignore[arg-type]
            constant = constant.narrow(place, 0, kept.of(dim))  # type: ignore[arg-type]
    return constant


def _place(root: nn.Module, name: str, what: Tensor | nn.Module, *, persistent: bool = False) -> nn.Module:
    """Put a tensor or a module where its name says; returns its owner."""
    path, _, leaf = name.rpartition(".")
    owner = root
    for step in path.split(".") if path else ():
        if step not in owner._modules:
            owner.add_module(step, nn.Module())
        owner = owner.get_submodule(step)
    if isinstance(what, nn.Parameter):
        owner.register_parameter(leaf, what)
    elif isinstance(what, Tensor):
        owner.register_buffer(leaf, what, persistent=persistent)
    else:
        owner.add_module(leaf, what)
    return owner
