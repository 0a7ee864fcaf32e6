"""Who takes part: one interface, candidates in, node ids and weights out."""

from __future__ import annotations

from strategies.selection.base import Candidates, Probe, Selection, Selector, Vectors
from strategies.selection.divfl import DivFL
from strategies.selection.oort import Oort
from strategies.selection.options import SELECTORS, selector
from strategies.selection.sizes import BySize, BySizeWithReplacement
from strategies.selection.uniform import Uniform
from strategies.selection.utility import Utility

__all__ = [
    "SELECTORS",
    "BySize",
    "BySizeWithReplacement",
    "Candidates",
    "DivFL",
    "Oort",
    "Probe",
    "Selection",
    "Selector",
    "Uniform",
    "Utility",
    "Vectors",
    "selector",
]
