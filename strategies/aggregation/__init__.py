"""What replies count: one interface, a reply in, numerator and denominator of its difference out."""

from __future__ import annotations

from models.registry import Registry
from strategies.aggregation.base import Aggregation, Update
from strategies.aggregation.fednova import FedNova
from strategies.aggregation.norms import parameter_norm, parameter_share
from strategies.aggregation.q_ffl import QFedAvg, QFedSGD
from strategies.aggregation.weights import ByExamples, ByMethod, Unweighted


def _rule(found: object) -> type[Aggregation] | None:
    return found if isinstance(found, type) and issubclass(found, Aggregation) else None


AGGREGATIONS: Registry[type[Aggregation]] = Registry(
    "aggregation",
    group="flotilla.aggregations",
    expected="a subclass of strategies.aggregation.Aggregation, made without arguments",
    check=_rule,
    built_in={
        "method": ByMethod,
        "examples": ByExamples,
        "uniform": Unweighted,
        "q-fedavg": QFedAvg,
        "q-fedsgd": QFedSGD,
        "fednova": FedNova,
    },
)


def aggregation_named(name: str, q: float = 1.0) -> Aggregation:
    """Make a rule.

    Args:
        name: one of `AGGREGATIONS`, an entry point or an import path.
        q: of the two q-rules; the others have no use for it.

    Raises:
        SettingError: unknown name, or q is negative.
    """
    rule = AGGREGATIONS[name]
    return rule(q) if issubclass(rule, QFedAvg) else rule()


def name_of(rule: Aggregation) -> str:
    """The name by which a run asks for a rule: that of its class where it is none of ours."""
    return next((name for name, kind in AGGREGATIONS.items() if type(rule) is kind), type(rule).__name__)


__all__ = [
    "AGGREGATIONS",
    "Aggregation",
    "ByExamples",
    "ByMethod",
    "FedNova",
    "QFedAvg",
    "QFedSGD",
    "Unweighted",
    "Update",
    "aggregation_named",
    "name_of",
    "parameter_norm",
    "parameter_share",
]
