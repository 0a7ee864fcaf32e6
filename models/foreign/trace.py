"""Follows dimensions through the graph that `torch.export` makes of a module, in training and in evaluation.

An operation that no rule understands freezes what it touches, so that a mistake cuts too little, never wrongly.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from models.foreign.atoms import Extent, atoms_of, extent, freeze, size_of
from models.foreign.refused import Untraceable, inputs_of, place_of, reason, sized_by_data
from models.foreign.rules import RULES, Call, Counts, Dims, NotUnderstood, Value, frozen, shape_of

BATCH = 11  # examples of a trace: no size that networks have, so that nothing is taken for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A tensor of the module's state.

    Attributes:
        dims: its dimensions.
        parameter: whether it is trained; else it is a statistic, or a table that stays as it is.
        norm: whether it belongs to a norm.
    """

    dims: Dims
    parameter: bool
    norm: bool = False


@dataclass(slots=True, kw_only=True)
class Traced:
    """What is known of a module.

    Attributes:
        graphs: by whether it trains.
        dims: of what every node computes.
        counts: what the arguments of operations count.
        tensors: of the state, in its order; each under its first name.
        constants: what the graphs read beside the state: the same on every device, never sent.
        not_understood: operations without a rule, with file and line.
        unused: tensors of the state that no graph reads.
        output: dimensions of the output, (N, ..., classes).
    """

    graphs: dict[bool, fx.Graph] = field(default_factory=dict)
    dims: dict[fx.Node, Value] = field(default_factory=dict)
    counts: dict[fx.Node, Counts] = field(default_factory=dict)
    tensors: dict[str, Held] = field(default_factory=dict)
    constants: dict[str, Tensor | nn.Module] = field(default_factory=dict)
    not_understood: list[str] = field(default_factory=list)
    unused: tuple[str, ...] = ()
    output: Dims = field(default_factory=list)

    @property
    def classes(self) -> Extent:
        """The last dimension of the output."""
        return self.output[-1]


def trace(module: nn.Module, example: Tensor) -> Traced:
    """Follow a module's dimensions.

    Args:
        module: takes one tensor (N, ...) and returns logits (N, classes); its mode changes.
        example: of any number of inputs; only its shape and type matter.

    Raises:
        Untraceable: it branches on data, its batch size is a number to it, or it returns something else.
    """
    return follow(module, {training: exported(module, example, training=training) for training in (True, False)})


def follow(module: nn.Module, graphs: Mapping[bool, fx.GraphModule]) -> Traced:
    """Follow a module's dimensions through its graphs, by whether it trains; see `trace`."""
    state = _State(module)
    traced, used = Traced(), set[str]()
    for training, graph in graphs.items():
        used |= _Walk(traced, state, training=training).follow(graph)
    traced.tensors = {name: state.held[name] for name in state.held if name in used}
    traced.unused = tuple(name for name in state.held if name not in used)
    for held in traced.tensors.values():
        for dim in held.dims:
            for atom in atoms_of(dim):
                if not atom.multiplied:
                    freeze([atom], "nothing is summed over it")
    return traced


def exported(module: nn.Module, example: Tensor, *, training: bool) -> fx.GraphModule:
    """The graph of a module, for any number of inputs.

    Raises:
        Untraceable: PyTorch cannot make one.
    """
    if len(inputs := inputs_of(module)) > 1:
        raise Untraceable(f"its forward takes {', '.join(inputs)}: allowed is one tensor of inputs")
    batched = example[:1].expand(BATCH, *example.shape[1:]).clone()
    module.train(training)
    batch = torch.export.Dim("batch", min=1, max=1 << 20)
    try:
        with warnings.catch_warnings():  # of what layers note on themselves meanwhile
            warnings.simplefilter("ignore")
            program = torch.export.export(module, (batched,), dynamic_shapes=({0: batch},), strict=False)
            made = program.module(check_guards=False)
    except Exception as error:  # whatever the module's code and PyTorch raise on the way
        raise Untraceable(reason(error)) from error
    assert isinstance(made, fx.GraphModule)
    return made


class _State:
    """Names of a module's tensors; those that are one tensor have one."""

    def __init__(self, module: nn.Module) -> None:
        tensors = dict(module.named_parameters(remove_duplicate=False))
        everything: dict[str, Tensor] = {**tensors, **dict(module.named_buffers(remove_duplicate=False))}
        kept = module.state_dict()
        self.first: dict[str, str] = {}
        self.held: dict[str, Held] = {}
        seen: dict[int, str] = {}
        for name in [*kept, *(name for name in everything if name not in kept)]:
            tensor = everything.get(name)
            if tensor is None:  # an extra state of some module
                continue
            first = self.first[name] = seen.setdefault(id(tensor), name)
            trained = tensor.requires_grad or name not in tensors
            if first == name and name in kept and trained and tensor.is_floating_point():
                dims = [extent(size) for size in tensor.shape]
                self.held[name] = Held(dims=dims, parameter=name in tensors)


class _Walk:
    """Follows one graph."""

    def __init__(self, traced: Traced, state: _State, *, training: bool) -> None:
        self.traced, self.state, self.training = traced, state, training
        self.used: set[str] = set()
        self._tables: dict[str, Dims] = {}

    def follow(self, made: fx.GraphModule) -> set[str]:
        """Note every node's dimensions; returns the names of the state's tensors that it reads."""
        known, graph = self.traced.dims, fx.Graph()
        nodes: dict[fx.Node, fx.Node] = {}
        graph.graph_copy(made.graph, nodes)  # a copy: names are changed in it
        returned = [nodes[one] for one in next(iter(reversed(made.graph.nodes))).all_input_nodes]
        graph.output(returned[0] if len(returned) == 1 else returned)
        self.traced.graphs[self.training] = graph
        for node in graph.nodes:
            if node.op == "placeholder":
                value = node.meta.get("val")
                known[node] = frozen(shape_of(value), "input") if isinstance(value, Tensor) else None
            elif node.op == "get_attr":
                known[node] = self._read(made, node)
            elif node.op == "call_function":
                known[node] = self._call(node)
            elif node.op == "output":
                self._finish(node)
        return self.used

    def _read(self, made: fx.GraphModule, node: fx.Node) -> Value:
        found: Any = made
        for part in str(node.target).split("."):
            found = getattr(found, part)
        name = self.state.first.get(str(node.target), "")
        if name in self.state.held:
            node.target = name
            self.used.add(name)
            return self.state.held[name].dims
        mode = "training" if self.training else "evaluation"
        node.target = f"constants.{mode}_{str(node.target).replace('.', '_')}"
        if node.target not in self._tables:
            self.traced.constants[node.target] = found
            self._tables[node.target] = _table(found) if isinstance(found, Tensor) else []
        return self._tables[node.target] if isinstance(found, Tensor) else None

    def _call(self, node: fx.Node) -> Value:
        value, known = node.meta.get("val"), self.traced.dims
        if node.target is operator.getitem:
            several = known[node.args[0]]  # type: ignore[index]
            return several[node.args[1]] if several is not None else None  # type: ignore[index, return-value]
        if not _holds_tensors(value):
            return None
        name = operation(node)
        if sized_by_data(value):
            raise Untraceable(f"how long the output of {name}{place_of(node)} is depends on data")
        counts = Counts()
        try:
            if name not in RULES:
                raise NotUnderstood
            found = RULES[name](Call(name=name, node=node, known=known, counts=counts))
            _check(found, value)
        except (NotUnderstood, ValueError, TypeError, IndexError, KeyError, AssertionError) as error:
            return self._not_understood(node, name, error)
        self.traced.counts[node] = counts
        if name in NORMS:
            self._note_norm(node)
        return found

    def _not_understood(self, node: fx.Node, name: str, error: Exception) -> Value:
        where = f"{name}{place_of(node)}"
        why = f"the operation {where} is not understood" + (f" ({error})" if str(error) else "")
        if where not in self.traced.not_understood:
            self.traced.not_understood.append(where)
        for operand in node.all_input_nodes:
            for dim in _flat(self.traced.dims[operand]):
                freeze(dim, why)
        value = node.meta["val"]
        if isinstance(value, Tensor):
            return frozen(shape_of(value), why)
        return [frozen(shape_of(one), why) if isinstance(one, Tensor) else [] for one in value]

    def _note_norm(self, node: fx.Node) -> None:
        for one in node.all_input_nodes:
            if one.op == "get_attr" and str(one.target) in self.state.held:
                held = self.state.held[str(one.target)]
                self.state.held[str(one.target)] = Held(dims=held.dims, parameter=held.parameter, norm=True)

    def _finish(self, node: fx.Node) -> None:
        outputs = node.all_input_nodes
        dims = self.traced.dims.get(outputs[0]) if len(outputs) == 1 else None
        if not dims or isinstance(dims[0], list) or len(dims) < 2 or size_of(dims[0]) != BATCH:
            raise Untraceable(
                f"its forward returns {len(outputs)} values: allowed is one tensor of logits (N, classes)"
            )
        for dim in dims:
            freeze(dim, "output")
        self.traced.output = dims


NORMS = frozenset({"batch_norm", "instance_norm", "layer_norm", "rms_norm", "group_norm"})


def operation(node: fx.Node) -> str:
    """Name of what a node computes, without its overload."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.rpartition("::")[2]
    return getattr(target, "__name__", str(target))


def _table(tensor: Tensor) -> Dims:
    """Dimensions of a constant: one whose coordinates are all alike may be cut."""
    dims = [extent(size) for size in tensor.shape]
    for place, dim in enumerate(dims):
        if tensor.requires_grad or isinstance(tensor, nn.Parameter):
            freeze(dim, "of a tensor that is not trained")
        elif not torch.equal(tensor, tensor.narrow(place, 0, min(1, tensor.shape[place])).expand_as(tensor)):
            freeze(dim, "of a constant")
    return dims


def _holds_tensors(value: object) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, list | tuple) and any(isinstance(v, Tensor) for v in value))


def _check(found: Value, value: object) -> None:
    """See that a rule's dimensions are as long as the example's."""
    several: Any = [found] if isinstance(value, Tensor) else found or []
    tensors: Any = [value] if isinstance(value, Tensor) else value
    for dims, tensor in zip(several, tensors, strict=True):
        if isinstance(tensor, Tensor) and tuple(map(size_of, dims)) != shape_of(tensor):
            raise NotUnderstood("of another shape than expected")


def _flat(value: Value) -> list[Extent]:
    flat: list[Extent] = []
    for one in value or []:
        if isinstance(one, list):
            flat += one
        else:
            flat.append(one)
    return flat


def state_of(module: nn.Module) -> Mapping[str, Tensor]:
    """A module's tensors by the names that a trace gives them."""
    everything = {**dict(module.named_parameters(remove_duplicate=False)), **module.state_dict(keep_vars=True)}
    return {name: everything[name] for name in _State(module).held}
