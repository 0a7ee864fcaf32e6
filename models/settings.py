"""What can be set: its default, what is allowed and what it means, each written once.

A *section* is a frozen keyword-only dataclass whose fields are settings:

    @dataclass(frozen=True, kw_only=True)
    class Rounds:
        quorum: float = setting(0.5, "share of the nodes that must reply", between(0, 1))

        def __post_init__(self) -> None:
            check(self)

`read(Rounds, config)` makes one of a flat configuration (`{"quorum": 1}`), in which a field's key is its name with
hyphens; `declared(Rounds)` lists what it has, from which the documents are written. What a method can be told is a
mapping of `Setting`s instead (`OPTIONS`), because it is known by name only: `read_options` reads one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import KW_ONLY, dataclass
from math import inf, isfinite
from typing import Any, Protocol, TypeVar

from models.errors import SettingError

Scalar = bool | int | float | str
Section = TypeVar("Section")

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


class Allowed(Protocol):
    """Which values of the right type a setting may have."""

    def holds(self, value: Any) -> bool:
        """Whether it may have this one; what only other settings can tell is looked at elsewhere."""

    def __str__(self) -> str:
        """As a phrase."""


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers, or none above or below; NaN is in no range.

    Attributes:
        least, most: the ends.
        above, below: whether the lower, the upper end itself is left out.
    """

    least: float = -inf
    most: float = inf
    _: KW_ONLY
    above: bool = False
    below: bool = False

    def holds(self, value: Any) -> bool:
        """Whether a number lies in the range."""
        low = self.least < value if self.above else self.least <= value
        high = value < self.most if self.below else value <= self.most
        return bool(low and high)

    def __str__(self) -> str:
        least, most = (str(end) if isinstance(end, int) else f"{end:.12g}" for end in (self.least, self.most))
        if self.most == inf:
            return "any" if self.least == -inf else f"more than {least}" if self.above else f"at least {least}"
        if self.above:
            return f"between {least} and {most}" if self.below else f"more than {least} and at most {most}"
        return f"{least} to below {most}" if self.below else f"{least} to {most}"


def at_least(least: float) -> Range:
    """Numbers from `least` on."""
    return Range(least)


def more_than(least: float, most: float = inf) -> Range:
    """Numbers above `least`, up to `most`."""
    return Range(least, most, above=True)


def between(least: float, most: float) -> Range:
    """Numbers from `least` to `most`, both included."""
    return Range(least, most)


@dataclass(frozen=True, slots=True)
class Names:
    """A closed set, which may be filled later than it is declared.

    Attributes:
        of: the names, or what tells them.
        more: what else there is, as a phrase; whoever understands it checks the value.
    """

    of: Collection[str] | Callable[[], Collection[str]]
    more: str = ""

    def __iter__(self) -> Any:
        return iter(self.of() if callable(self.of) else self.of)

    def holds(self, value: Any) -> bool:
        """Whether it is one of the names, or may be something else."""
        return bool(self.more) or value in list(self)

    def __str__(self) -> str:
        return "one of " + ", ".join(self) + (f", or {self.more}" if self.more else "")


WHOLE = between(-(2**63), 2**63 - 1)  # whole numbers that a message can carry: 64 bits with a sign
ELSEWHERE = "an entry point, or an import path such as my_lab.module:name"


@dataclass(frozen=True, slots=True)
class Text:
    """What a text must look like, as a phrase; whoever understands it checks it."""

    phrase: str

    def holds(self, value: Any) -> bool:
        """Nobody can tell here."""
        del value
        return True

    def __str__(self) -> str:
        return self.phrase


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing that can be set.

    Attributes:
        default: its value unless somebody sets it; its type is the setting's. "auto" may be a number as well.
        words: in one line what a value means, and what 0 or "" does.
        allowed: None is every value of the type.
        key: its name in a flat configuration; "" is the field's, with hyphens.
        advanced: not a key of a run's configuration: set in Python only.
        read_by: who looks at it, as a phrase; "" is every run.
        listed: whether the documents list it here, and not where another section has the same key.
    """

    default: Scalar
    words: str
    allowed: Allowed | None = None
    _: KW_ONLY
    key: str = ""
    advanced: bool = False
    read_by: str = ""
    listed: bool = True

    @property
    def kind(self) -> str:
        """Its type, as a phrase."""
        return _KINDS[type(self.default)]

    @property
    def phrase(self) -> str:
        """What is allowed, as a phrase; "" is every value of the type."""
        text = "" if self.allowed is None else str(self.allowed)
        return f"a whole number of {text}" if type(self.default) is int and text.startswith("at least") else text

    def check(self, key: str, value: Any) -> None:
        """Hold a value of the right type against what is allowed.

        Raises:
            SettingError: it is something else, or a whole number that no message can carry.
        """
        if self.allowed is not None and not self.allowed.holds(value):
            raise SettingError(key, value, self.phrase)
        self._check_length(key, value)

    def _check_length(self, key: str, value: object) -> None:
        if type(value) is int and not WHOLE.holds(value):
            raise SettingError(key, value, f"{self.phrase or self.kind}, in 64 bits ({WHOLE})")

    def read(self, key: str, value: object) -> Scalar:
        """A value as a configuration has it: a whole number will do for a number, true and false are no numbers.

        Raises:
            SettingError: another type, not finite, or not allowed.
        """
        kind, given = type(self.default), value
        if type(value) is int and (kind is float or self.default == "auto"):
            self._check_length(key, value)  # as it was given: so it crosses the wire, and a long one is no float
        if kind is float and type(value) is int:
            value = float(value)
        elif self.default == "auto" and type(value) in (int, float):
            value = str(value)
        if type(value) is not kind or (isinstance(value, float) and not isfinite(value)):
            wanted = "a finite number" if type(given) is float and kind is float else self.kind
            extra = f", {self.phrase}" if self.phrase and not self.phrase.startswith(wanted) else ""
            raise SettingError(key, given, self.phrase if self.phrase.startswith(wanted) else wanted + extra)
        self.check(key, value)
        return value

    def field(self) -> Any:
        """A field of a section."""
        return dataclasses.field(default=self.default, metadata={"setting": self})


def setting(default: Scalar, words: str, allowed: Allowed | None = None, **more: Any) -> Any:
    """A field of a section; see `Setting` for what it takes."""
    return Setting(default, words, allowed, **more).field()


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A setting and where it is.

    Attributes:
        key: its name in a flat configuration.
        field: its name in the section.
        setting: what it is.
        section: the class it is a field of.
    """

    key: str
    field: str
    setting: Setting
    section: type[Any]

    @property
    def in_python(self) -> str:
        """How to set it in Python."""
        return f"{self.section.__name__}({self.field}=…)"


_KNOWN: dict[type[Any], tuple[Placed, ...]] = {}


def declared(section: type[Any]) -> tuple[Placed, ...]:
    """The settings of a section, its own first, then those of the sections that it extends."""
    if section not in _KNOWN:
        fields = {field.name: field.metadata["setting"] for field in dataclasses.fields(section) if field.metadata}
        order = dict.fromkeys(name for base in section.__mro__ for name in vars(base).get("__annotations__", ()))
        _KNOWN[section] = tuple(
            Placed(key=fields[name].key or name.replace("_", "-"), field=name, setting=fields[name], section=section)
            for name in order
            if name in fields
        )
    return _KNOWN[section]


def read(section: type[Section], config: Mapping[str, Scalar], **more: Any) -> Section:
    """Make a section of a flat configuration; absent keys get their default, keys of others are ignored.

    Args:
        section: its class.
        config: values by key.
        more: fields that are no settings.

    Raises:
        SettingError: a value of the wrong type, or not allowed.
    """
    found = {one.field: one.setting.read(one.key, config[one.key]) for one in declared(section) if one.key in config}
    return section(**found, **more)


def check(section: object) -> None:
    """Hold every setting of a section that was made in Python against what is allowed.

    Raises:
        SettingError: names the key, the value and what is allowed.
    """
    for one in declared(type(section)):
        one.setting.check(one.key, getattr(section, one.field))


def read_options(options: Mapping[str, Setting], given: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Every option with its value.

    Raises:
        SettingError: a value of the wrong type, or not allowed; names the option.
        KeyError: an option that there is not.
    """
    found = {name: option.default for name, option in options.items()}
    return found | {name: options[name].read(name, value) for name, value in given.items()}
