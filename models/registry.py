"""What a name in the configuration stands for: built in, offered by an installed package, or an import path.

    method = "heterofl"                  built in
    method = "fedprox"                   entry point `fedprox` of the group `flotilla.methods`, of any installed package
    method = "my_lab.fedprox:FedProx"    import path: module, colon, name in it

All kinds of things that a run can name are found in these three ways: networks, data sets, methods, selectors, codecs,
aggregation rules, clusterings, objectives. Built in comes first, so nothing that is installed changes what a built-in
name means, and entry points are read only where a name is none of ours. What is found elsewhere is checked when it is
loaded: each kind says what it must be.

An import path runs whatever code it names, so a process can be told which ones to follow (`following`): a device
follows those that its owner allows, whoever names them.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from models.errors import SettingError
from models.settings import Scalar, Setting

T = TypeVar("T")

_FAMILIES: set[str] = set()  # first words of names that are no import paths
_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
FOLLOWED: ContextVar[tuple[str, ...]] = ContextVar("followed", default=("*",))


class UnknownName(SettingError, KeyError):
    """Nothing has this name."""

    def __str__(self) -> str:
        return str(self.args[0])  # a KeyError would show its quotes


class Unfit(ValueError):
    """What a name leads to is not what it must be; the text is what is allowed, and what this is in place of it."""


class Registry(Mapping[str, T], Generic[T]):
    """Things of one kind by name.

    As a mapping it has what is built in; `registry[name]` finds entry points and import paths as well.

    Args:
        key: of the setting that names one.
        group: of entry points.
        expected: what one must be, for errors.
        check: makes one of what an entry point or an import path leads to; None if it is none, `Unfit` where there is
            more to say.
        built_in: by name; more can be set later, as in a dictionary.
        families: first word → what makes one of the rest of a name such as "csv:heart.csv".
        libraries: name → import path of ours to what makes one with another library, which is loaded only then.
    """

    def __init__(
        self,
        key: str,
        *,
        group: str,
        expected: str,
        check: Callable[[object], T | None],
        built_in: Mapping[str, T] | None = None,
        families: Mapping[str, Callable[[str], T]] | None = None,
        libraries: Mapping[str, str] | None = None,
    ) -> None:
        self._libraries = dict(libraries or {})
        self.key, self.group, self._expected, self._check = key, group, expected, check
        self._built_in = dict(built_in or {})
        self._families = dict(families or {})
        _FAMILIES.update(self._families)
        self._loaded: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        """Find one.

        Raises:
            UnknownName: nothing has this name.
            SettingError: it cannot be loaded or must not be, or it is something else.
        """
        if name in self._built_in:
            return self._built_in[name]
        if is_path(name):
            check_followed(self.key, name)
        if self._is_family(name) and name not in self._loaded:
            family, _, rest = name.partition(":")
            self._loaded[name] = self._families[family](rest)
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        """Whether something has this name; an import path counts if it is built like one."""
        known = (self._built_in, self._libraries, _offered(self.group))
        return isinstance(name, str) and (
            is_path(name) or self._is_family(name) or any(name in names for names in known)
        )

    def __iter__(self) -> Iterator[str]:
        """Names of what is built in."""
        return iter(self._built_in)

    def __len__(self) -> int:
        return len(self._built_in)

    def __setitem__(self, name: str, one: T) -> None:
        """Build one in: for what is made in other modules than the registry's own."""
        self._built_in[name] = one

    def names(self) -> list[str]:
        """Everything that has a name: built in, by libraries, entry points of installed packages; not loaded."""
        ours = [*self._built_in, *self._libraries]
        return [*ours, *(name for name in sorted(_offered(self.group)) if name not in ours)]

    def _is_family(self, name: str) -> bool:
        family, colon, rest = name.partition(":")
        return bool(colon and rest) and family in self._families

    def _load(self, name: str) -> T:
        if is_path(name) or name in self._libraries:
            found = self._follow(self._libraries.get(name, name))
        else:
            offers = _offered(self.group).get(name, [])
            if not offers:
                raise self._unknown(name)
            if len(offers) > 1:
                packages = " and ".join(sorted(offer.dist.name if offer.dist else "?" for offer in offers))
                raise SettingError(self.key, name, f"a name that one package offers; {packages} both do")
            try:
                found = offers[0].load()
            except Exception as error:  # whatever the package raises while it is imported
                raise SettingError(self.key, name, f"one that can be loaded; {_said(error)}") from error
        try:
            one = self._check(found)
            _check_options(found if one is None else one)
        except Unfit as error:
            raise SettingError(self.key, name, str(error)) from None
        except SettingError:
            raise
        except Exception as error:  # whatever the user's code raises when one is made
            raise SettingError(self.key, name, f"one that can be made; {_said(error)}") from error
        if one is None:
            raise SettingError(self.key, name, f"{self._expected}; this is {_described(found)}")
        return one

    def _follow(self, path: str) -> object:
        module_name, _, attribute = path.partition(":")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise SettingError(self.key, path, f"an import path that leads somewhere; {error}; {_along()}") from error
        except Exception as error:  # whatever the module raises while it is imported
            raise SettingError(self.key, path, f"a module that can be imported; {_said(error)}") from error
        if not hasattr(module, attribute):
            public = [name for name in vars(module) if not name.startswith("_")]
            near = get_close_matches(attribute, public, 3, cutoff=0.5)
            has = f"; near it are {', '.join(near)}" if near else ""
            raise SettingError(self.key, path, f"a name that {module_name} has{has}")
        return getattr(module, attribute)

    def _unknown(self, name: str) -> UnknownName:
        known = self.names()
        near = get_close_matches(name, known, 3, cutoff=0.5)
        nearest_first = [*near, *(other for other in known if other not in near)]
        built_in, libraries = len(self._built_in), len(self._libraries)
        by_libraries = f"by libraries: {libraries}; " if libraries else ""
        installed = len(known) - built_in - libraries
        looked = f"built in: {built_in}; {by_libraries}entry points of group {self.group}: {installed or 'none'}"
        ways = f"({looked}), or an import path such as my_lab.module:name"
        return UnknownName(self.key, name, f"one of {', '.join(nearest_first)} {ways}")


def is_path(name: str) -> bool:
    """Whether a name is built like an import path, `package.module:name`."""
    return _PATH.fullmatch(name) is not None and name.partition(":")[0] not in _FAMILIES


def prefix_of(name: str, one: object) -> str:
    """What the keys of its own options begin with: the name; of an import path NAME, or its own name in kebab case."""
    if not is_path(name):
        return name
    declared = getattr(one, "NAME", None)
    if isinstance(declared, str) and declared:
        return declared
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name.partition(":")[2])
    return words.replace("_", "-").strip("-").lower()


def option_keys(name: str, one: object) -> dict[str, tuple[str, Setting]]:
    """Key → own name and setting of what something declares as its `OPTIONS`.

    Args:
        name: as the configuration has it.
        one: what it stands for.
    """
    options: Mapping[str, Setting] = getattr(one, "OPTIONS", {})
    return {f"{prefix_of(name, one)}-{option}": (option, setting) for option, setting in options.items()}


def _check_options(one: object) -> None:
    options = getattr(one, "OPTIONS", {})
    what = "one whose OPTIONS are a mapping of names to models.settings.Setting"
    if not isinstance(options, Mapping):
        raise Unfit(f"{what}; they are {_shown(options)}")
    for option, told in options.items():
        if not isinstance(option, str) or not isinstance(told, Setting):
            raise Unfit(f"{what}; that of {option!r} is {_shown(told)}")
        if not isinstance(told.default, Scalar):
            raise Unfit(
                f"{what} whose default is a number, a bool or a text; that of {option!r} is {_shown(told.default)}"
            )


@contextmanager
def following(patterns: Iterable[str]) -> Iterator[None]:
    """Follow only import paths that match one of these (`my_lab.*`, `other.nets:make`); outside of it, all.

    `my_lab.*` is everything in the package, and `*` is everything.
    """
    token = FOLLOWED.set(tuple(patterns))
    try:
        yield
    finally:
        FOLLOWED.reset(token)


def check_followed(key: str, path: str) -> None:
    """See whether an import path is to be followed here.

    Raises:
        SettingError: it matches none of the patterns.
    """
    if not any(_matches(path, pattern) for pattern in FOLLOWED.get()):
        package = path.partition(":")[0].partition(".")[0]
        mine = ", ".join(FOLLOWED.get()) or "none"
        raise SettingError(
            key, path, f'what this device\'s owner allows, import paths: {mine} (node config: allow="{package}.*")'
        )


def _matches(path: str, pattern: str) -> bool:
    if pattern.endswith(".*") and path.startswith(f"{pattern[:-2]}:"):
        return True
    return fnmatchcase(path, pattern)


def _offered(group: str) -> Mapping[str, list[EntryPoint]]:
    return _read(group, tuple(sys.path))


@lru_cache(maxsize=64)
def _read(group: str, path: tuple[str, ...]) -> Mapping[str, list[EntryPoint]]:
    """Entry points of a group by name; read again when the path has changed."""
    del path
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=group):
        same = found.setdefault(entry.name, [])
        if all(other.value != entry.value for other in same):
            same.append(entry)
    return found


def _along() -> str:
    """Which packages of the user's are found beside the installed ones, and how others are."""
    found = [one for finder in sys.meta_path for one in getattr(finder, "user_packages", {}).items()]  # user_code's
    looked = "of yours go along " + ", ".join(f"{name} ({place})" for name, place in found) + "; " if found else ""
    return f"{looked}`flotilla run --with FOLDER` takes a folder of yours along"


def _said(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")


def _described(found: object) -> str:
    if isinstance(found, type):
        return f"the class {found.__name__}"
    return f"the function {found.__name__}" if callable(found) and hasattr(found, "__name__") else _shown(found)


def _shown(found: object) -> str:
    return " ".join(repr(found).split())[:80]
