"""Every key of a run: the sections, what methods can be told, and the settings that are set in Python only.

`keys()` is the closed set that a configuration may use, one `Key` each, in the order of pyproject.toml and of
docs/configuration.md; `advanced()` are the settings beyond it; `moved(key)` says where one is that a
configuration does not have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from data import DataSettings
from models.settings import Names, Placed, Scalar, Setting, declared
from protocol.codecs import CodecSettings
from server_app.adversarial import Adversarial
from server_app.config.foreign import foreign_keys, installed_keys
from server_app.config.sections import (
    Adapters,
    Aggregation,
    Down,
    Model,
    Rounds,
    RunSettings,
    Selection,
    Tiers,
    Training,
)
from strategies import METHODS
from strategies.clustering.options import ClusterOptions
from strategies.robustness.options import GuardOptions
from strategies.secure.options import SecureOptions
from strategies.selection import DivFL, Oort, Utility

# Title → what is written under it; the titles are those of docs/configuration.md.
SECTIONS: dict[str, tuple[type, ...]] = {
    "What is trained": (Model, Adapters),
    "Data": (DataSettings,),
    "Tiers": (Tiers,),
    "Rounds": (Rounds,),
    "Selection": (Selection, Utility, DivFL, Oort),
    "Aggregation": (Aggregation,),
    "Codecs": (CodecSettings, Down),
    "Clusters": (ClusterOptions,),
    "Guard": (GuardOptions,),
    "Secure aggregation": (SecureOptions,),
    "Local training": (Training,),
    "Adversarial inputs": (Adversarial,),
    "The run": (RunSettings,),
}
METHODS_TITLE = "A method's own"
FOREIGN_TITLE = "Of what is not built in"

_RENAMED = {
    "fleet": "simulated-devices",
    "fedrolex-label-rows": "heterofl-label-rows",
    "depthfl-exclusive-distillation": "depthfl-distillation",
    "depthfl-exclusive-distillation-rounds": "depthfl-distillation-rounds",
    "planted": "synthetic-groups",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One setting of a run.

    Attributes:
        name: as configurations have it, such as "batch-size".
        type: bool, int, float or str; where the default is "auto", a number will do as well.
        default: its value unless somebody sets it.
        allowed: as a phrase; "" is everything of the type.
        words: what it means.
        section: title of its section.
        names: what it can be by name, where it has names; `allowed` has them as well.
        more: what else it can be then, as a phrase.
        read_by: who looks at it, such as "clustering = ifca" or "method = heterofl, fedrolex"; "" is every run.
        in_python: for those that no configuration has: how to set it in Python; "" for keys.
    """

    name: str
    type: type
    default: Scalar
    allowed: str
    words: str
    section: str
    names: tuple[str, ...] = ()
    more: str = ""
    read_by: str = ""
    in_python: str = ""


def foreign(given: Mapping[str, Scalar] | None = None) -> list[Key]:
    """The keys of what is not built in: of what a configuration names, and of what installed packages offer.

    Raises:
        SettingError: what it names cannot be found or loaded.
    """
    found = {**installed_keys(), **foreign_keys(given or {})}
    return [_key(key, one.setting, FOREIGN_TITLE, f"{one.named_by} = {one.name}") for key, one in found.items()]


def keys() -> list[Key]:
    """The keys of a run's configuration, sections first, then what methods can be told."""
    common = [_key(one.key, one.setting, title) for title, one in placed() if not one.setting.advanced]
    return [*common, *(_key(key, told, METHODS_TITLE, _readers(key)) for key, told in option_settings().items())]


def advanced() -> list[Key]:
    """The settings that are no keys: arguments of sections in Python, and of `resolve(..., overrides=…)`."""
    return [_key(one.key, one.setting, title, place=one.in_python) for title, one in placed() if one.setting.advanced]


def defaults() -> dict[str, Scalar]:
    """Every key with its default."""
    return {key.name: key.default for key in keys()}


def moved(key: str) -> str:
    """Where a key is that a configuration does not have, as a phrase; "" for one that is nowhere.

    It was there once, is set in Python only, or belongs to what an installed package offers and nothing names.
    """
    new = _RENAMED.get(key, key)
    if new != key and new in defaults():
        return f"{new}, as this key is called now"
    for one in advanced():
        if one.name == new:
            return f'set in Python only: {one.in_python}, or resolve(…, overrides={{"{new}": …}})'
    offered = installed_keys().get(key)
    return "" if offered is None else f'set with {offered.named_by} = "{offered.name}" only'


def placed() -> Iterator[tuple[str, Placed]]:
    """Title and setting of all sections, every key once."""
    seen: set[str] = set()
    for title, sections in SECTIONS.items():
        for one in (one for section in sections for one in declared(section)):
            if one.setting.listed and one.key not in seen:
                seen.add(one.key)
                yield title, one


def option_keys() -> dict[str, dict[str, str]]:
    """Method → its options → key. A method that takes over another's option has it under the other's key."""
    found: dict[str, dict[str, str]] = {}
    owner: dict[int, str] = {}
    for name, method in METHODS.items():
        found[name] = {own: owner.setdefault(id(told), f"{name}-{own}") for own, told in method.OPTIONS.items()}
    return found


def option_settings() -> dict[str, Setting]:
    """Key → what methods can be told under it."""
    return {key: METHODS[name].OPTIONS[own] for name, told in option_keys().items() for own, key in told.items()}


def settings_by_key() -> Mapping[str, Setting]:
    """Everything that can be set, by key."""
    return {one.key: one.setting for _, one in placed()} | option_settings()


def _readers(key: str) -> str:
    return "method = " + ", ".join(name for name, told in option_keys().items() if key in told.values())


def _key(name: str, told: Setting, title: str, readers: str = "", place: str = "") -> Key:
    return Key(
        name=name,
        type=type(told.default),
        default=told.default,
        allowed=told.phrase,
        words=told.words,
        section=title,
        names=tuple(told.allowed) if isinstance(told.allowed, Names) else (),
        more=told.allowed.more if isinstance(told.allowed, Names) else "",
        read_by=readers or told.read_by,
        in_python=place,
    )
