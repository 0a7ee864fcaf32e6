"""What a method says of itself: the docstrings of its module, its class and its hooks."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import dataclass

from strategies.flower_adapter import FlowerStrategy
from strategies.method import Method

# Hooks in the order of `strategies/method.py`.
HOOKS = [name for name, found in vars(Method).items() if inspect.isfunction(found) and not name.startswith("_")]
_SECTION = re.compile(r"^(Options|Equation|Traps): ", re.M)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A part of a class's docstring.

    Attributes:
        text: as it stands there, without its heading; "" if no class has it.
        owner: name of the class that says it: the method's own, or the nearest that it extends.
    """

    text: str
    owner: str


def summary(method: type[FlowerStrategy]) -> str:
    """First sentence of its docstring."""
    return (method.__doc__ or method.__name__).strip().partition("\n")[0]


def idea(method: type[FlowerStrategy]) -> str:
    """What its module says, else what it says itself."""
    module = inspect.getdoc(sys.modules[method.__module__])
    return module or inspect.cleandoc(method.__doc__ or "") or f"`{method.__name__}` has no docstring."


def part(method: type[FlowerStrategy], name: str) -> Said:
    """The equation or the traps of a class: a paragraph that begins with that word and a colon."""
    for one in method.__mro__:
        if one is FlowerStrategy or not issubclass(one, FlowerStrategy):
            break
        found = _parts(inspect.cleandoc(one.__doc__ or ""))
        if name in found:
            return Said(text=found[name], owner=one.__name__)
    return Said(text="", owner="")


def _parts(doc: str) -> dict[str, str]:
    cut = [*_SECTION.finditer(doc)]
    ends = [*(found.start() for found in cut), len(doc)]
    return {found[1]: doc[found.end() : end].strip() for found, end in zip(cut, ends[1:], strict=True)}


def hooks(method: type[FlowerStrategy]) -> list[tuple[str, str, str]]:
    """The hooks that it does not leave as they are: name, first line of what it says, class that says it."""
    found = []
    for name in HOOKS:
        owner = next(one for one in method.__mro__ if name in vars(one))
        if owner not in (Method, FlowerStrategy):
            line = inspect.cleandoc(vars(owner)[name].__doc__ or "").partition("\n")[0]
            found.append((name, line, owner.__name__))
    return found
