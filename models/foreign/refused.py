"""Modules that cannot be followed: what about them, and where in the user's code."""

from __future__ import annotations

import inspect
import re
import traceback
from pathlib import Path

import torch
from torch import Tensor, fx, nn

_TORCH = str(Path(torch.__file__).parent)


class Untraceable(ValueError):
    """A module that cannot be followed; one line says where and why."""


def inputs_of(module: nn.Module) -> list[str]:
    """Names of what a module's forward cannot do without."""
    parameters = inspect.signature(module.forward).parameters.values()
    some = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [one.name for one in parameters if one.default is one.empty and one.kind not in some]


def sized_by_data(value: object) -> bool:
    """Whether a node's output has a size that only its values tell, as that of `nonzero`."""
    several = value if isinstance(value, list | tuple) else [value]
    sizes = [size for one in several if isinstance(one, Tensor) for size in one.shape]
    return any(isinstance(size, torch.SymInt) and size.node.hint is None for size in sizes)


def lines_of(node: fx.Node) -> str:
    """Files and lines that a node comes from, outermost first, as tracebacks have them."""
    return "\n".join(re.findall(r'File "[^"]+", line \d+', node.meta.get("stack_trace") or ""))


def place_of(node: fx.Node) -> str:
    """File and line of the user's code that a node comes from."""
    lines = re.findall(r'File "([^"]+)", line (\d+)', lines_of(node))
    own = [f" ({Path(file).name}:{line})" for file, line in lines if not file.startswith(_TORCH)]
    return own[-1] if own else ""


def reason(error: Exception) -> str:
    """One line of what PyTorch says, and where in the user's code."""
    frames = [one for one in traceback.extract_tb(error.__traceback__) if not one.filename.startswith(_TORCH)]
    own = [one for one in frames if Path(one.filename).resolve().parent != Path(__file__).resolve().parent]
    text = str(error)
    where = f" at {Path(own[-1].filename).name}:{own[-1].lineno} ({own[-1].line})" if own else ""
    if "data-dependent" in text or "GuardOnDataDependent" in type(error).__name__:
        return f"it branches on data{where}"
    if "specialized" in text or "onstraint" in text.partition("\n")[0]:
        return f"the batch size is a number to it{where}: allowed is a forward that takes any number of inputs"
    said = next((line for line in text.splitlines() if line.strip()), "")
    return f"it cannot be traced{where}: {type(error).__name__}: {said}"[:400]
