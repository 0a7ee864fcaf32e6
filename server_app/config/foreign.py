"""Keys of what is not built in: the options of methods, networks, data sets and selectors of somebody else's."""

from __future__ import annotations

from collections.abc import Mapping
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
        option: its own name of the option.
        setting: default, range and words.
    """

    named_by: str
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
            found[own] = ForeignKey(named_by=key, option=option, setting=setting)
    return found


def options_of(named_by: str, keys: Mapping[str, ForeignKey], flat: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Own options, by their own names, of what one key names."""
    return {one.option: flat[key] for key, one in keys.items() if one.named_by == named_by}
