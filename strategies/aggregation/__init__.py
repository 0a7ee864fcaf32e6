"""What replies count: one interface, a reply in, numerator and denominator of its difference out."""

from __future__ import annotations

from models.errors import SettingError
from strategies.aggregation.base import Aggregation, Update
from strategies.aggregation.fednova import FedNova, effective_steps
from strategies.aggregation.norms import parameter_norm, parameter_share
from strategies.aggregation.q_ffl import QFedAvg, QFedSGD
from strategies.aggregation.weights import ByExamples, ByMethod, Unweighted

# Name in the run config → rule.
AGGREGATIONS: dict[str, type[Aggregation]] = {
    "method": ByMethod,
    "examples": ByExamples,
    "uniform": Unweighted,
    "q-fedavg": QFedAvg,
    "q-fedsgd": QFedSGD,
    "fednova": FedNova,
}


def aggregation_named(name: str, q: float = 1.0) -> Aggregation:
    """Make a rule.

    Args:
        name: one of `AGGREGATIONS`.
        q: of the two q-rules; the others have no use for it.

    Raises:
        SettingError: unknown name, or q is negative.
    """
    if name not in AGGREGATIONS:
        raise SettingError("aggregation", name, AGGREGATIONS)
    rule = AGGREGATIONS[name]
    return rule(q) if issubclass(rule, QFedAvg) else rule()


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
    "effective_steps",
    "parameter_norm",
    "parameter_share",
]
