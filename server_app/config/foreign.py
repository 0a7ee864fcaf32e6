"""Keys of what is not built in: the options of methods, networks, data sets and selectors of somebody else's."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from data import SOURCES
from models.errors import SettingError
from models.networks.registry import NETWORKS
from models.registry import Registry, option_keys
from models.settings import Setting
from protocol import Scalar
from strategies import METHODS
from strategies.selection import SELECTORS

# The keys that name something which may have options of its own.
NAMED: Mapping[str, Registry[Any]] = {registry.key: registry for registry in (METHODS, NETWORKS, SOURCES, SELECTORS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKey:
    """A key that exists because the configuration names something that is not built in.

    Attributes:
        named_by: the key that names it: "method", "model", "dataset" or "selection".
        name: what that key says.
        option: its own name of the option.
        setting: default, range and words.
    """

    named_by: str
    name: str
    option: str
    setting: Setting


def foreign_keys(given: Mapping[str, Scalar]) -> dict[str, ForeignKey]:
    """The keys that a configuration has beside Flotilla's own, by what it names.

    Raises:
        SettingError: what it names cannot be found or loaded.
    """
    found: dict[str, ForeignKey] = {}
    for key, registry in NAMED.items():
        name = given.get(key)
        if not isinstance(name, str) or name in list(registry):
            continue
        for own, (option, setting) in option_keys(name, registry[name]).items():
            if own in found:
                raise SettingError(key, name, f"one whose keys are its own; {own!r} is also {found[own].named_by}'s")
            found[own] = ForeignKey(named_by=key, name=name, option=option, setting=setting)
    return found


def keys_of(named_by: str, keys: Mapping[str, ForeignKey]) -> dict[str, str]:
    """Option → key of what one key names, such as "method"."""
    return {one.option: key for key, one in keys.items() if one.named_by == named_by}


def installed_keys() -> dict[str, ForeignKey]:
    """The keys of everything that installed packages offer; what cannot be loaded is left out."""
    found: dict[str, ForeignKey] = {}
    for key, registry in NAMED.items():
        for name in registry.names()[len(registry) :]:
            with suppress(SettingError):
                found |= foreign_keys({key: name})
    return found
