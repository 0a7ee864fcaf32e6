"""Weighted means: numerator and denominator are the same."""

from __future__ import annotations

from dataclasses import dataclass

from strategies.aggregation.base import Aggregation, Update


@dataclass(frozen=True)
class ByMethod(Aggregation):
    """As the method's authors do."""

    def weigh(self, update: Update, norm: float) -> tuple[float, float]:
        """The method's own weight."""
        del norm
        return update.weight, update.weight


@dataclass(frozen=True)
class ByExamples(Aggregation):
    """In proportion to training examples (McMahan et al., AISTATS 2017, Algorithm 1)."""

    def weigh(self, update: Update, norm: float) -> tuple[float, float]:
        """Examples."""
        del norm
        examples = update.metrics["num-examples"]  # the guard has seen to it
        return examples, examples


@dataclass(frozen=True)
class Unweighted(Aggregation):
    """The plain mean."""

    def weigh(self, update: Update, norm: float) -> tuple[float, float]:
        """One."""
        del update, norm
        return 1.0, 1.0
