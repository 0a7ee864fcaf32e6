"""What every operation says about dimensions; importing this fills the table."""

from models.foreign.rules import attention, elementwise, layers, normalise, recurrent, shapes
from models.foreign.rules.table import RULES, Call, Counts, Dims, NotUnderstood, Value, frozen, shape_of

__all__ = [
    "RULES",
    "Call",
    "Counts",
    "Dims",
    "NotUnderstood",
    "Value",
    "attention",
    "elementwise",
    "frozen",
    "layers",
    "normalise",
    "recurrent",
    "shape_of",
    "shapes",
]
