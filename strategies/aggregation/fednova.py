"""FedNova (Wang, Liu, Liang, Joshi, Poor, NeurIPS 2020): clients that step more often do not pull harder.

FedAvg with unequal numbers of local steps minimises another objective than it claims: clients count by steps as well
as by weight p_k. FedNova averages the *normalised* differences and gives them back their common length (§4, eq. 11):

    w ← w + τ · Σ p_k Δ_k / ‖a_k‖₁ / Σ p_k,    τ = Σ p_k ‖a_k‖₁ / Σ p_k,

where a_k holds the factors with which a client's gradients enter its difference: all 1 for SGD, so ‖a_k‖₁ is its number
of steps; with momentum ρ, ‖a_k‖₁ = (τ_k - ρ(1-ρ^τ_k)/(1-ρ)) / (1-ρ). Equal steps are the method's own mean; p_k is the
method's own weight.

With FedDyn's regulariser (`dynamic-alpha`) or FedProx's term every step is also drawn back to where the client began,
by α(w_k - w): with c = αη, ‖a_k‖₁ = (1 - (1-c)^τ_k)/c without momentum, the paper's case of a proximal term; with both
it is what the two recursions come to. FedDyn's linear term is a part of the gradient, and its h is made of the averaged
differences as they are after FedNova, which neither paper has.

Over partial submodels this is our extension: the mean of the normalised differences runs over the holders of a
coordinate, τ over everybody whose reply was accepted. So every coordinate moves by the same number of effective steps;
were τ taken over the holders too, coordinates that only fast devices hold would still be trained harder than the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from strategies.aggregation.base import Aggregation, Update
from strategies.exchange.assignment import effective_steps

_MOST_STEPS = 1e9


@dataclass(frozen=True)
class FedNova(Aggregation):
    """The mean of normalised differences, times the mean number of effective steps.

    A client's word on its steps is taken up to what was planned for it (`strategies.round.stages.within_plan`).
    """

    COUNTS_STEPS = True

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
        steps, optimiser = update.number("steps", 1, _MOST_STEPS), update.optimiser
        pull = (update.dynamic_alpha + optimiser.proximal) * optimiser.learning_rate
        length = effective_steps(steps, optimiser.momentum, pull)
        if not 0 < length < inf:
            raise ValueError(f"{steps:g} steps with dynamic-alpha = {update.dynamic_alpha:g} come to {length:g}")
        return length
