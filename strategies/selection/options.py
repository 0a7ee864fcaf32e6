"""What selectors can be told, by the names of the run config, and the selectors by theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from models.errors import SettingError
from models.registry import Registry
from protocol import Scalar
from strategies.selection.base import Selector, one_of
from strategies.selection.comparable import COMPARISONS
from strategies.selection.divfl import DivFL
from strategies.selection.oort import Oort
from strategies.selection.sizes import BySize, BySizeWithReplacement
from strategies.selection.uniform import Uniform
from strategies.selection.utility import LOSSES, Utility


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionOptions:
    """Settings of all selectors; each takes its own. See docs/configuration.md, and the selectors themselves.

    What the chosen selector does not look at is checked all the same.

    Raises:
        SettingError: names the key, the value and what is allowed.
    """

    selection_candidates: int = 0
    selection_loss: str = "probe"
    selection_batch: int = 64
    selection_compare: str = "tier-rank"
    selection_data_exponent: float = 1.0
    selection_loss_exponent: float = 1.0
    selection_lateness_exponent: float = 2.0
    selection_preferred_seconds: float = 0.0
    divfl_greedy: str = "lazy"
    divfl_sample: int = 0
    divfl_vectors: str = "projected"
    divfl_size: int = 256
    divfl_refresh: str = "updates"
    divfl_weights: str = "gamma"
    oort_exploration: float = 0.9
    oort_exploration_decay: float = 0.95
    oort_exploration_least: float = 0.2
    oort_cutoff: float = 0.7
    oort_clip: float = 0.95
    oort_pacer_percent: float = 30.0
    oort_pacer_rounds: int = 20
    oort_pacer_step: float = 5.0

    def __post_init__(self) -> None:
        """Let every selector look at its own; which comparison one can make is looked at when it is made."""
        one_of("selection-loss", self.selection_loss, LOSSES)
        one_of("selection-compare", self.selection_compare, COMPARISONS)
        _utility(self, "raw")
        _divfl(self)
        _oort(self, "raw")


def _power_of_choice(name: str, losses: str) -> Callable[[SelectionOptions], Selector]:
    def make(o: SelectionOptions) -> Selector:
        if o.selection_loss not in ("probe", losses):  # the first is the default
            raise SettingError("selection-loss", o.selection_loss, f'for selection = "utility"; {name} is "{losses}"')
        return Utility(
            losses=losses,
            candidates=o.selection_candidates,
            batch=o.selection_batch,
            compare=o.selection_compare,
            data=0.0,
            loss=1.0,
            lateness=0.0,
        )

    return make


def _utility(o: SelectionOptions, compare: str = "") -> Selector:
    return Utility(
        losses=o.selection_loss,
        candidates=o.selection_candidates,
        batch=o.selection_batch,
        compare=compare or o.selection_compare,
        data=o.selection_data_exponent,
        loss=o.selection_loss_exponent,
        lateness=o.selection_lateness_exponent,
        preferred_seconds=o.selection_preferred_seconds,
    )


def _divfl(o: SelectionOptions) -> Selector:
    return DivFL(
        algorithm=o.divfl_greedy,
        sample=o.divfl_sample,
        kind=o.divfl_vectors,
        size=o.divfl_size,
        refresh=o.divfl_refresh,
        weights=o.divfl_weights,
    )


def _oort(o: SelectionOptions, compare: str = "") -> Selector:
    return Oort(
        exploration=o.oort_exploration,
        decay=o.oort_exploration_decay,
        least=o.oort_exploration_least,
        cutoff=o.oort_cutoff,
        clip=o.oort_clip,
        lateness=o.selection_lateness_exponent,
        preferred_seconds=o.selection_preferred_seconds,
        percent=o.oort_pacer_percent,
        pacer_rounds=o.oort_pacer_rounds,
        pacer_step=o.oort_pacer_step,
        compare=compare or o.selection_compare,
    )


Maker = Callable[[SelectionOptions], Selector]
_BUILT_IN: dict[str, Maker | type[Selector]] = {
    "uniform": lambda _: Uniform(),
    "by-size": lambda _: BySize(),
    "by-size-replacement": lambda _: BySizeWithReplacement(),
    "pow-d": _power_of_choice("pow-d", "probe"),
    "cpow-d": _power_of_choice("cpow-d", "batch"),
    "rpow-d": _power_of_choice("rpow-d", "last"),
    "divfl": _divfl,
    "oort": _oort,
    "utility": _utility,
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


def selector(name: str, options: SelectionOptions | None = None, own: Mapping[str, Scalar] | None = None) -> Selector:
    """Make a selector.

    Args:
        name: one of `SELECTORS`, an entry point or an import path.
        options: settings of the selectors that are built in.
        own: those of another one, by the names of its `OPTIONS`.

    Raises:
        SettingError: an unknown name, or a setting that it cannot use.
    """
    kind = SELECTORS[name]
    if isinstance(kind, type):
        foreign: type[Selector] = kind
        return foreign(**{option.replace("-", "_"): value for option, value in (own or {}).items()})
    return kind(options or SelectionOptions())
