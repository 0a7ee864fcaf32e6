"""Exported graphs as bytes: data, never code.

A graph is a list of nodes, each an operation by name, its arguments, and the shape of an example's result. Read back,
an operation is looked up among those of PyTorch that have a rule here and a few of Python's; the module stands there as
a skeleton: names and shapes of its tensors, without their values. Values are only kept of what the graphs read beside
the module's state. What else a graph may hold (submodules, operations without a rule) is not storable.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, fx, nn

from models.foreign.refused import lines_of
from models.foreign.rules import RULES
from models.foreign.trace import operation

_HEADER, _VERSION = "network", 1
_MODES = {True: "training", False: "evaluation"}
_PYTHON: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in ("getitem", "add", "sub", "mul", "floordiv", "truediv", "mod")},
    **{name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{name: getattr(torch, name) for name in ("sym_max", "sym_min", "sym_int", "sym_not", "_check")},
}
_CHECKS = ("sym_size", "sym_numel", "_assert_tensor_metadata", "_assert_scalar")  # operations that need no rule
_NAMED = {  # kinds of arguments that have a name in torch
    "dtype": torch.dtype,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}


class NotStorable(ValueError):
    """What bytes do not hold, or cannot be read."""


def to_bytes(module: nn.Module, graphs: Mapping[bool, fx.GraphModule]) -> bytes:
    """Write a module's graphs.

    Raises:
        NotStorable: they hold what is no data.
    """
    read = {str(node.target) for made in graphs.values() for node in made.graph.nodes if node.op == "get_attr"}
    tensors, constants = _state(module), dict[str, Tensor]()
    for made in graphs.values():
        for name in sorted(read):
            value = _find(made, name)
            if name in constants or (name in tensors and tensors[name]["trained"]) or value is None:
                continue
            if not isinstance(value, Tensor):
                raise NotStorable(f"{name} is no tensor")
            constants[name] = value.detach().cpu().contiguous().clone()
    told = {
        "version": _VERSION,
        "tensors": tensors,
        "graphs": {_MODES[training]: _nodes(made.graph) for training, made in graphs.items()},
    }
    try:
        body = json.dumps(told)
        return save(constants, {_HEADER: body, "digest": _digest(body, constants)})
    except (TypeError, ValueError, SafetensorError) as error:
        raise NotStorable(str(error)) from error


def from_bytes(data: bytes) -> tuple[nn.Module, dict[bool, fx.GraphModule]]:
    """Read what `to_bytes` wrote: the module's skeleton, and its graphs.

    Raises:
        NotStorable: it is something else, or damaged.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])["__metadata__"]
        body, constants = header[_HEADER], load(data)
        if header["digest"] != _digest(body, constants):
            raise NotStorable("another digest")
        told = json.loads(body)
        if told["version"] != _VERSION:
            raise NotStorable(f"version {told['version']}")
        skeleton = _skeleton(told["tensors"], constants)
        graphs = {training: fx.GraphModule(skeleton, _graph(told["graphs"][mode])) for training, mode in _MODES.items()}
    except NotStorable:
        raise
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise NotStorable(f"no stored network: {error!r}"[:200]) from error
    return skeleton, graphs


def _digest(body: str, constants: Mapping[str, Tensor]) -> str:
    digest = sha256(body.encode())
    for name in sorted(constants):
        digest.update(name.encode() + constants[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# ---- the module ------------------------------------------------------------------------------------------------------


def _state(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Tensors of a module by name, in the state's order: shapes, and which of them are one."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    everything = {**parameters, **dict(module.named_buffers(remove_duplicate=False))}
    kept = module.state_dict()
    told: dict[str, dict[str, Any]] = {}
    seen: dict[int, str] = {}
    for name in [*kept, *(name for name in everything if name not in kept)]:
        tensor = everything.get(name)
        if tensor is None:
            continue
        told[name] = {
            "same": seen.setdefault(id(tensor), name),
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "parameter": name in parameters,
            "kept": name in kept,
            "trained": name in kept and (tensor.requires_grad or name not in parameters) and tensor.is_floating_point(),
        }
    return told


def _skeleton(tensors: Mapping[str, Mapping[str, Any]], constants: Mapping[str, Tensor]) -> nn.Module:
    root, made = nn.Module(), dict[str, Tensor]()
    values = {tensors[name]["same"]: tensor for name, tensor in constants.items() if name in tensors}
    for name, told in tensors.items():
        same = told["same"]
        if same not in made:
            tensor = values.get(same)
            if tensor is None:
                tensor = torch.empty(told["shape"], dtype=_named(told["dtype"], torch.dtype), device="meta")
            frozen = not told["trained"]
            made[same] = nn.Parameter(tensor, requires_grad=not frozen) if told["parameter"] else tensor
        _put(root, name, made[same], persistent=told["kept"])
    for name, tensor in constants.items():
        if name not in tensors:
            _put(root, name, tensor, persistent=False)
    return root


def _put(root: nn.Module, name: str, tensor: Tensor, *, persistent: bool) -> None:
    *path, leaf = name.split(".")
    owner = root
    for step in path:
        if step not in owner._modules:
            owner.add_module(step, nn.Module())
        owner = owner.get_submodule(step)
    if isinstance(tensor, nn.Parameter):
        owner.register_parameter(leaf, tensor)
    else:
        owner.register_buffer(leaf, tensor, persistent=persistent)


def _find(root: Any, name: str) -> Any:
    for step in name.split("."):
        root = getattr(root, step, None)
    return root


# ---- graphs ----------------------------------------------------------------------------------------------------------


def _nodes(graph: fx.Graph) -> list[list[Any]]:
    return [
        [
            node.op,
            node.name,
            _name_of(node),
            _told(node.args),
            {name: _told(value) for name, value in node.kwargs.items()},
            _example(node.meta.get("val")),
            lines_of(node),
            [path for path, *_ in (node.meta.get("nn_module_stack") or {}).values()],
        ]
        for node in graph.nodes
    ]


def _graph(told: list[list[Any]]) -> fx.Graph:
    graph, nodes = fx.Graph(), dict[str, fx.Node]()
    for op, name, target, args, kwargs, example, lines, stack in told:
        given = _read(args, nodes), {key: _read(value, nodes) for key, value in kwargs.items()}
        if op == "output":
            node = graph.output(given[0][0])
        elif op == "call_function":
            node = graph.create_node(op, _function(target), *given, name=name)
        elif op in ("placeholder", "get_attr"):
            node = graph.create_node(op, str(target), *given, name=name)
        else:
            raise NotStorable(f"operation {op!r}")
        node.meta = {
            "val": _example_of(example),
            "stack_trace": lines,
            "nn_module_stack": {str(place): (path, "") for place, path in enumerate(stack)},
        }
        nodes[name] = node
    return graph


def _name_of(node: fx.Node) -> str:
    if node.op in ("placeholder", "get_attr", "output"):
        return str(node.target)
    target = node.target
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
        return _allowed(f"aten.{operation(node)}.{target._overloadname}")
    for name, function in _PYTHON.items():
        if node.op == "call_function" and target is function:
            return name
    raise NotStorable(f"operation {target}")


def _function(name: str) -> Callable[..., Any]:
    if name in _PYTHON:
        return _PYTHON[name]
    _, packet, overload = _allowed(name).split(".")
    found = getattr(getattr(torch.ops.aten, packet), overload)
    if not isinstance(found, torch._ops.OpOverload):
        raise NotStorable(f"operation {name!r}")
    return found


def _allowed(name: str) -> str:
    space, packet, _ = name.split(".")
    if space != "aten" or (packet not in RULES and packet not in _CHECKS):
        raise NotStorable(f"operation {name!r}")
    return name


def _told(value: Any) -> Any:
    """An argument as JSON."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, list | tuple):
        return {"tuple" if isinstance(value, tuple) else "list": [_told(one) for one in value]}
    if isinstance(value, slice):
        return {"slice": [_told(value.start), _told(value.stop), _told(value.step)]}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    for kind, of in _NAMED.items():
        if isinstance(value, of):
            return {kind: str(value).removeprefix("torch.")}
    raise NotStorable(f"an argument of type {type(value).__name__}")


def _read(value: Any, nodes: Mapping[str, fx.Node]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inside),) = value.items()
    if kind == "node":
        return nodes[inside]
    if kind in ("list", "tuple"):
        return (list if kind == "list" else tuple)(_read(one, nodes) for one in inside)
    if kind == "slice":
        return slice(*(_read(one, nodes) for one in inside))
    if kind == "device":
        return torch.device(inside)
    return _named(inside, _NAMED[kind])


def _named(name: str, kind: type) -> Any:
    found = getattr(torch, name)
    if not isinstance(found, kind):
        raise NotStorable(f"{name!r} is no {kind.__name__}")
    return found


def _example(value: Any) -> Any:
    """Shape and type of an example's result; None for what is no tensor."""
    if isinstance(value, Tensor):
        sizes = [size if isinstance(size, int) else int(size.node.hint) for size in value.shape]
        return {"shape": sizes, "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, list | tuple):
        return [_example(one) for one in value]
    return None


def _example_of(told: Any) -> Any:
    if isinstance(told, dict):
        return torch.empty(told["shape"], dtype=_named(told["dtype"], torch.dtype), device="meta")
    return [_example_of(one) for one in told] if isinstance(told, list) else None
