"""q-FFL (Li, Sanjabi, Beirami, Smith, ICLR 2020): the worse a client is served, the more its update counts.

The objective is Σ p_k F_k^(q+1) / (q+1) (eq. 2). With F_k the loss of the received model before training, on all of
client k's training examples, g_k = L·(w - w_k) and L = 1/η of this round's learning rate, Algorithm 2 (q-FedAvg) is

    w ← w - Σ F_k^q g_k / Σ h_k,    h_k = q F_k^(q-1) ‖g_k‖² + L F_k^q.

In terms of the difference Δ_k = w_k - w, and divided by L, which all clients of a round share:

    w ← w + Σ a_k Δ_k / Σ b_k,      a_k = F_k^q,    b_k = F_k^q · (1 + q ‖Δ_k‖² / (η F_k)).

So q = 0 is the unweighted mean, bit for bit. Clients weigh by loss alone: examples count only if clients are *selected*
by size (selection "by-size"), as in the paper.

Over partial submodels this is our extension: both sums run over the holders of a coordinate, F_k is the loss and ‖Δ_k‖
the norm of client k's own part. Losses of narrow parts are higher by themselves, so small tiers count more.

‖Δ_k‖ is the norm before encoding: that of a quantised difference is longer by the noise (`norms`).

F_k is the loss without the term of weight decay, whose gradient is in Δ_k. In the authors' code (litian96/fair_flearn,
commit f097971) it is one or the other: Vehicle's SVM has its regulariser in both; that of Fashion-MNIST is declared and
never added to the loss, so it is in neither.

Whoever says a larger loss counts for more, so what a client may say is bounded: F_k^q by `MOST` times that of the
client whose loss is usual, and by `MOST_OF_OTHERS` times that of the one whose loss is largest among the others
(`strategies.robustness.norm_bounds`). The larger q, the closer together losses then lie.

L = 1/η is the smoothness of plain SGD; with momentum ρ the steps are up to 1/(1-ρ) times as long, g_k is too large by
as much, and the denominator damps more than the paper's would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from logging import INFO
from math import exp, inf, isfinite, log, log1p

from flwr.common import log as say

from models.errors import SettingError
from protocol import Optimiser, Work
from strategies.aggregation.base import Aggregation, Update

# Losses below this count as this: F^(q-1) has no bound at 0 for q < 1. The authors add as much to every loss.
FLOOR = 1e-10
# Denominators are kept within e^±57 (1e±25), where float32 can add them up. Between clients that differ by more, the
# sum cannot tell; a client's own step a/b is right in any case.
_LARGEST_LOG = 57.0
MOST = 4.0  # so many times the usual weight; with ten clients one that lies cannot turn the sum
MOST_OF_OTHERS = 1.5  # so many times the largest weight of another client
_WHOLE = 10**9  # a batch of all examples


@dataclass(frozen=True)
class QFedAvg(Aggregation):
    """Algorithm 2: local SGD.

    Args:
        q: 0 is the plain mean; the larger, the more uniform the clients' losses.

    Raises:
        SettingError: q is negative or not finite.
    """

    q: float = 1.0

    USES_NORM = True

    def __post_init__(self) -> None:
        if not (isfinite(self.q) and self.q >= 0):
            raise SettingError("aggregation-q", self.q, "a number of at least 0")

    def work(self, work: Work) -> Work:
        """The client measures its loss first."""
        return replace(work, measure=replace(work.measure, initial_loss=True))

    def most_of_losses(self) -> tuple[float, float] | None:
        """What makes weights `MOST` and `MOST_OF_OTHERS` times as large; None for q = 0, where losses do not count."""
        if not self.q:
            return None
        root = min(1 / self.q, _LARGEST_LOG)
        return float(MOST**root), float(MOST_OF_OTHERS**root)

    def weigh(self, update: Update, norm: float) -> tuple[float, float]:
        """The a and b of the module."""
        loss = update.number("loss-before", -inf, inf)
        if loss < FLOOR:
            say(INFO, "q-FFL: the loss %g of node %s counts as %g", loss, update.node, FLOOR)
            loss = FLOOR
        if norm and not update.optimiser.learning_rate > 0:
            raise ValueError(f"a difference (norm {norm:.3g}) at a learning rate of {update.optimiser.learning_rate}")
        damping = self.q * norm * norm / (update.optimiser.learning_rate * loss) if norm else 0.0
        # In logarithms, because F^q may be a number that no float can hold.
        denominator = exp(max(-_LARGEST_LOG, min(_LARGEST_LOG, self.q * log(loss) + log1p(damping))))
        return denominator / (1 + damping), denominator


@dataclass(frozen=True)
class QFedSGD(QFedAvg):
    """Algorithm 1: one gradient over all of a client's examples, so Δ_k = -η ∇F_k, without weight decay.

    The formula is that of q-FedAvg. Only the work differs: one step on one batch of everything, whatever the batch
    size.
    """

    def check(self, work: Work, optimiser: Optimiser, tier_steps: Sequence[int]) -> None:
        """One step, whose gradient is not clipped; the first step does not feel momentum."""
        needed = 'with aggregation = "q-fedsgd", which takes one gradient over all local examples a round'
        if tier_steps:
            raise SettingError("tier-steps", ", ".join(map(str, tier_steps)), f'"" {needed}')
        if work.local_steps != 1:
            raise SettingError("local-steps", work.local_steps, f"1 {needed}")
        if optimiser.clip_norm:
            raise SettingError("clip-norm", optimiser.clip_norm, f"0 {needed} and needs its norm")
        if optimiser.weight_decay:
            raise SettingError("weight-decay", optimiser.weight_decay, f"0 {needed}: of a loss without such a term")

    def work(self, work: Work) -> Work:
        """One batch of everything."""
        return replace(super().work(work), batch_size=_WHOLE)
