"""Who takes part: one interface, candidates in, node ids out."""

from __future__ import annotations

from strategies.selection.base import Candidate, Probe, Selector
from strategies.selection.uniform import BySize, Uniform

SELECTORS: dict[str, type[Selector]] = {"uniform": Uniform, "by-size": BySize}

__all__ = ["SELECTORS", "BySize", "Candidate", "Probe", "Selector", "Uniform"]
