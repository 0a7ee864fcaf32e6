"""The utility rule, and Power-of-Choice as a case of it.

Of d candidates, drawn in proportion to examples without replacement, the m with the largest utility take part:

    u = n_eff^a · L^b · (T/t)^(c·[t > T])

n_eff = min(examples, steps · batch size) is what a device gets through in a round, L its mean loss, t its seconds for a
round and T the seconds that are preferred. The exponents reach published rules: a = 0, b = 1, c = 0 is Power-of-Choice;
a = 1/2 is active FL (Goetz et al. 2019: √n · mean loss); a = 1 is the linear credit of Oort (Lai et al., OSDI 2021).

Power-of-Choice (Cho, Wang, Joshi, AISTATS 2022, §3) differs in where L comes from:

- pow-d: every candidate scores the present state on all of its training examples (d parts down, d numbers up);
- cpow-d: on one mini-batch;
- rpow-d: the server's table of the losses that came with training, +∞ for who was never chosen: nothing is asked.

Its rule for averaging is the plain mean over those chosen. Ties are broken at random. Some public versions pick other
clients than the m largest: FLGo (commit ea07f1d) takes positions among the candidates for positions among all, DivFL's
(melodi-lab/divfl, commit 4a5b80d) the last m of an argpartition at m. Flower's baseline (commit fdef7af) is right.
Positions here always mean candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.errors import SettingError
from models.settings import Names, Setting, at_least, check, setting
from strategies.selection.base import Candidates, Floats, Positions, Probe, Selection, Selector
from strategies.selection.comparable import COMPARISONS, WITHOUT_PROBE, within_tiers
from strategies.selection.draws import in_proportion, largest

LOSSES = ("probe", "batch", "last")
_HERE = "selection = utility"
LATENESS = Setting(
    2.0,
    "c: exponent of T/t for who is later than T; also Oort's α. At 0 nobody's seconds count",
    at_least(0),
    key="selection-lateness-exponent",
    advanced=True,
    read_by="selection = oort, utility",
)
PREFERRED_SECONDS = Setting(
    0.0,
    "T: seconds for a round that are preferred; 0 is the median of those known, and for `oort` what the pacer allows",
    at_least(0),
    key="selection-preferred-seconds",
    advanced=True,
    read_by="selection = oort, utility",
)


@dataclass(frozen=True, kw_only=True)
class Utility(Selector):
    """The m candidates of the largest utility, of d drawn by size.

    Attributes:
        losses: "probe" (all training examples), "batch" (a mini-batch) or "last" (from its last training).
        candidates: d; 0 is twice the number chosen.
        batch: examples of "batch".
        compare: one of `COMPARISONS`.
        data, loss, lateness: the exponents a, b and c.
        preferred_seconds: T; 0 is the median of what is known of all candidates.
    """

    losses: str = setting(
        "probe",
        "where `utility` takes L from (the three pow-d rules have their own): `probe` (all training examples, asked),"
        " `batch` (a mini-batch, asked), `last` (from its last training)",
        Names(LOSSES),
        key="selection-loss",
        read_by="selection = utility",
    )
    candidates: int = setting(
        0,
        "d: how many are drawn by size; 0 is twice the number chosen. Not less than are chosen, not more than there are"
        " nodes",
        at_least(0),
        key="selection-candidates",
        read_by="selection = pow-d, cpow-d, rpow-d, utility",
    )
    batch: int = setting(
        64, "examples of a mini-batch", at_least(1), key="selection-batch", read_by="selection = cpow-d, utility"
    )
    compare: str = setting(
        "tier-rank",
        "losses of different tiers are not comparable: `tier-rank` normalises by quantiles within the tier, `common`"
        " asks everybody about the smallest tier's part, `raw` takes them as they are",
        Names(COMPARISONS),
        key="selection-compare",
        read_by="selection = pow-d, cpow-d, rpow-d, oort, utility",
    )
    data: float = setting(
        1.0, "a: exponent of n_eff", at_least(0), key="selection-data-exponent", advanced=True, read_by=_HERE
    )
    loss: float = setting(
        1.0, "b: exponent of the loss", at_least(0), key="selection-loss-exponent", advanced=True, read_by=_HERE
    )
    lateness: float = LATENESS.field()
    preferred_seconds: float = PREFERRED_SECONDS.field()

    def __post_init__(self) -> None:
        """Check what does not depend on the number of nodes.

        Raises:
            SettingError: see there.
        """
        check(self)
        if self.losses == "last" and self.compare not in WITHOUT_PROBE:
            raise SettingError("selection-compare", self.compare, WITHOUT_PROBE)

    @property
    def asks(self) -> bool:
        """The candidates, for their losses."""
        return self.losses != "last"

    @property
    def sets_weights(self) -> bool:
        """Size counts in the draw of the candidates."""
        return True

    def check(self, count: int, nodes: int) -> None:
        """Hold d against m and the number of nodes; see `Selector.check`."""
        if self.candidates and not count <= self.candidates <= nodes:
            allowed = f"{count} (chosen each round) to {nodes} (nodes), or 0 for twice the number chosen"
            raise SettingError("selection-candidates", self.candidates, allowed)

    def select(self, candidates: Candidates, count: int, draws: np.random.Generator, probe: Probe) -> Selection:
        """Draw d by size, then take the m of the largest utility."""
        wanted = min(len(candidates), max(count, self.candidates or 2 * count))
        if wanted == count:  # nothing is left to choose, so nothing is asked
            return candidates.selection(in_proportion(candidates.examples, wanted, draws))
        everybody = wanted == len(candidates)
        drawn = np.arange(wanted) if everybody else in_proportion(candidates.examples, wanted, draws)
        scores = self.utilities(candidates, drawn, self._losses(candidates, drawn, probe))
        return candidates.selection(drawn[largest(scores, count, draws)])

    def utilities(self, candidates: Candidates, positions: Positions, losses: Floats) -> Floats:
        """Utilities of some candidates, given their losses; -∞ where the loss is NaN."""
        scores = candidates.processed[positions] ** self.data * losses**self.loss
        scores *= lateness(candidates.seconds, self.preferred_seconds, self.lateness)[positions]
        return np.where(np.isnan(losses), -np.inf, scores)

    def _losses(self, candidates: Candidates, positions: Positions, probe: Probe) -> Floats:
        if self.losses == "last":
            found, tiers = last_losses(candidates, candidates.loss)[positions], candidates.loss_tiers[positions]
        else:
            batch, common = self.batch if self.losses == "batch" else 0, self.compare == "common"
            found, tiers = probe.losses(positions, batch=batch, common=common), candidates.tiers[positions]
        return within_tiers(found, tiers) if self.compare == "tier-rank" else found


def lateness(seconds: Floats, preferred: float, exponent: float) -> Floats:
    """(T/t)^c for who is later than T, 1 for the others and where t is unknown; T = 0 is the median."""
    known = seconds[~np.isnan(seconds)]
    if not len(known) or not exponent:
        return np.ones_like(seconds)
    limit = preferred or float(np.median(known))
    late = seconds > limit  # NaN is not
    return np.where(late, (limit / np.where(late, seconds, 1.0)) ** exponent, 1.0)


def last_losses(candidates: Candidates, losses: Floats) -> Floats:
    """A table of losses in which everybody stands: +∞ for who was never chosen.

    Who was chosen and never answered counts as the median of those that did: neither for ever first nor for ever last.
    """
    known = ~np.isnan(losses)
    middle = float(np.median(losses[known])) if known.any() else np.inf
    return np.where(known, losses, np.where(candidates.selected > 0, middle, np.inf))
