"""The selectors by their names in the run configuration. What one can be told are its fields; see there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from models.errors import SettingError
from models.registry import Registry, option_keys
from models.settings import Scalar, read
from strategies.selection.base import Selector
from strategies.selection.divfl import DivFL
from strategies.selection.oort import Oort
from strategies.selection.sizes import BySize, BySizeWithReplacement
from strategies.selection.uniform import Uniform
from strategies.selection.utility import Utility

Values = Mapping[str, Scalar]  # by key; those of other selectors are passed over


def _power_of_choice(name: str, losses: str) -> Callable[[Values], Selector]:
    def make(values: Values) -> Selector:
        told = values.get("selection-loss", "probe")
        if told not in ("probe", losses):  # the first is the default
            raise SettingError("selection-loss", told, f'for selection = "utility"; {name} is "{losses}"')
        return replace(read(Utility, {**values, "selection-loss": losses}), data=0.0, loss=1.0, lateness=0.0)

    return make


Maker = Callable[[Values], Selector]
_BUILT_IN: dict[str, Maker | type[Selector]] = {
    "uniform": lambda _: Uniform(),
    "by-size": lambda _: BySize(),
    "by-size-replacement": lambda _: BySizeWithReplacement(),
    "pow-d": _power_of_choice("pow-d", "probe"),
    "cpow-d": _power_of_choice("cpow-d", "batch"),
    "rpow-d": _power_of_choice("rpow-d", "last"),
    "divfl": lambda values: read(DivFL, values),
    "oort": lambda values: read(Oort, values),
    "utility": lambda values: read(Utility, values),
}


def _selector(found: object) -> type[Selector] | None:
    return found if isinstance(found, type) and issubclass(found, Selector) else None


# How a selector is made: one of ours from the settings of all, another's class from its own `OPTIONS` by keyword.
SELECTORS: Registry[Maker | type[Selector]] = Registry(
    "selection",
    group="flotilla.selectors",
    expected="a subclass of strategies.selection.Selector",
    check=_selector,
    built_in=_BUILT_IN,
)


def selector(name: str, values: Values | None = None) -> Selector:
    """Make a selector.

    Args:
        name: one of `SELECTORS`, an entry point or an import path.
        values: what it is told, by key, such as {"selection-candidates": 10}; the rest is by default.

    Raises:
        SettingError: an unknown name, or a setting that it cannot use.
    """
    kind, values = SELECTORS[name], values or {}
    if isinstance(kind, type):
        foreign: type[Selector] = kind
        own = {o.replace("-", "_"): values.get(key, told.default) for key, (o, told) in option_keys(name, kind).items()}
        try:
            return foreign(**own)
        except SettingError:
            raise
        except Exception as error:  # whatever the user's code raises
            said = f"{type(error).__name__}: {error}"
            raise SettingError("selection", name, f"one that its OPTIONS make, by keyword; {said}") from error
    return kind(values)
