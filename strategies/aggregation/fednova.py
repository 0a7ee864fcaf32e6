"""FedNova (Wang, Liu, Liang, Joshi, Poor, NeurIPS 2020): clients that step more often do not pull harder.

FedAvg with unequal numbers of local steps minimises another objective than it claims: clients count by steps as well
as by weight p_k. FedNova averages the *normalised* differences and gives them back their common length (§4, eq. 11):

    w ← w + τ · Σ p_k Δ_k / ‖a_k‖₁ / Σ p_k,    τ = Σ p_k ‖a_k‖₁ / Σ p_k,

where a_k holds the factors with which a client's gradients enter its difference: all 1 for SGD, so ‖a_k‖₁ is its number
of steps; with momentum ρ, ‖a_k‖₁ = (τ_k - ρ(1-ρ^τ_k)/(1-ρ)) / (1-ρ). Equal steps are the method's own mean; p_k is the
method's own weight.

Over partial submodels this is our extension: the mean of the normalised differences runs over the holders of a
coordinate, τ over everybody whose reply was accepted. So every coordinate moves by the same number of effective steps;
were τ taken over the holders too, coordinates that only fast devices hold would still be trained harder than the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from strategies.aggregation.base import Aggregation, Update

_MOST_STEPS = 1e9


@dataclass(frozen=True)
class FedNova(Aggregation):
    """The mean of normalised differences, times the mean number of effective steps."""

    def weigh(self, update: Update, norm: float) -> tuple[float, float]:
        """p/‖a‖₁ and p."""
        del norm
        return update.weight / self.effective_steps(update), update.weight

    def scale(self, updates: Sequence[Update]) -> float:
        """τ: effective steps, averaged over all accepted replies by weight."""
        total = sum(update.weight for update in updates)
        return sum(update.weight * self.effective_steps(update) for update in updates) / total

    def effective_steps(self, update: Update) -> float:
        """‖a‖₁ of a client.

        Raises:
            ValueError: it did not say how many steps it made, or none.
        """
        steps, momentum = update.number("steps", 1, _MOST_STEPS), update.optimiser.momentum
        return (steps - momentum * (1 - float(momentum**steps)) / (1 - momentum)) / (1 - momentum)
