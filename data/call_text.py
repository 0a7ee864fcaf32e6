"""A name with arguments as it stands in a configuration, such as `DirichletPartitioner(alpha=0.3, partition_by=label)`.

It is parsed and never evaluated: values are numbers, texts (with quotes or without), true, false, none, and lists.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import Parameter, Signature
from typing import Any

_LONGEST = 4096  # characters
_WORDS = {"true": True, "false": False, "none": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A name with arguments.

    Attributes:
        name: what stands before the parenthesis.
        arguments: by their names.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def parse_call(text: str) -> Call:
    """Read a name with arguments, or without any.

    Raises:
        ValueError: it is something else; one line.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"more than {_LONGEST} characters")
    try:
        found = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError("a name, or a name with arguments such as Name(alpha=0.3)") from None
    if isinstance(found, ast.Name):
        return Call(name=found.id)
    if not isinstance(found, ast.Call) or not isinstance(found.func, ast.Name):
        raise ValueError("a name, or a name with arguments such as Name(alpha=0.3)")
    if found.args or any(argument.arg is None for argument in found.keywords):
        raise ValueError("arguments by their names, such as Name(alpha=0.3)")
    return Call(name=found.func.id, arguments={str(one.arg): _value(one.value) for one in found.keywords})


def check_arguments(call: Call, signature: Signature, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call, with those that are given besides.

    Args:
        call: as the configuration has it.
        signature: of what is called, without `self`.
        given: arguments that the call need not have, as far as the signature has them.

    Raises:
        ValueError: an argument that there is none of, or one that is missing; one line.
    """
    known = {name: one for name, one in signature.parameters.items() if one.kind is not Parameter.VAR_KEYWORD}
    if unknown := [name for name in call.arguments if name not in known]:
        raise ValueError(f"{call.name} has no {', '.join(unknown)}; it has {', '.join(known) or 'no arguments'}")
    arguments = {name: value for name, value in given.items() if name in known} | dict(call.arguments)
    missing = [name for name, one in known.items() if one.default is Parameter.empty and name not in arguments]
    if missing:
        raise ValueError(f"{call.name} needs {', '.join(missing)}")
    return arguments


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str | None):
        return node.value
    if isinstance(node, ast.Name):
        return _WORDS.get(node.id.lower(), node.id)
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(one) for one in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _value(node.operand)
        if isinstance(number, int | float) and not isinstance(number, bool):
            return -number
    raise ValueError("values that are numbers, texts, true, false, none or lists of them")
