"""Oort (Lai, Zhu, Madhyastha, Chowdhury, OSDI 2021): statistical utility, speed, staleness, exploration.

Utility of a device that trained before (§4.2 and §4.3, Algorithm 1), B being the examples it gets through in a round:

    U = |B| · sqrt(mean over B of loss²)           |B| = min(examples, steps · batch size)
    score = (clipped U, scaled to its range + sqrt(0.1 · ln R / L)) · (T/t)^(α·[t > T])

R is the round, L the last one that it took part in, t its seconds and T those that are preferred. A share ε of the
round explores devices that never trained, more data first; ε starts at 0.9 · 0.95 and falls by 0.95 a round to 0.2. The
rest is drawn in proportion to the score among those that reach 0.7 times the score at the edge. ε is 0 when nobody is
new.

T is the percentile of known seconds that the pacer allows: every 20 rounds it allows 5 more if the utility gained in
the last 20 rounds differs by no more than a tenth from that of the 20 before (the authors' code; the text speaks of a
fall), and 5 less if it differs by more than five times. A preferred number of seconds switches it off.

Where we leave the authors' code: the range of U is taken over those that have one (there, sizes of new devices are
mixed in); a device of unknown speed is not late; nobody being left to explore, or to exploit, is no error. The square
of the loss is of all examples of the training, not of its last batch. No blacklist, no over-commitment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from models.errors import SettingError
from models.settings import Names, at_least, between, check, setting
from strategies.selection.base import Candidates, Floats, Positions, Probe, Selection, Selector
from strategies.selection.comparable import WITHOUT_PROBE, within_tiers
from strategies.selection.draws import in_proportion, largest
from strategies.selection.utility import LATENESS, PREFERRED_SECONDS, lateness

_HERE: dict[str, Any] = {"advanced": True, "read_by": "selection = oort"}
_WINDOW = 5  # new devices among which one is drawn, as a multiple of how many are drawn


@dataclass(frozen=True, kw_only=True)
class Oort(Selector):
    """Guided selection with exploration.

    Attributes:
        exploration, decay, least: ε before the first round, its factor every round, and where it stops.
        cutoff: share of the score at the edge that suffices to be drawn.
        clip: percentile (0 to 1) at which utilities are cut.
        lateness: α.
        preferred_seconds: T; 0 leaves it to the pacer.
        percent: percentile of the seconds where the pacer starts; 100 is no limit.
        pacer_rounds, pacer_step: how often the pacer looks, and by how many percent it moves.
        compare: "tier-rank" or "raw", see `strategies.selection.comparable`.
    """

    exploration: float = setting(
        0.9,
        "share of a round that goes to nodes that never trained, before round 1",
        between(0, 1),
        key="oort-exploration",
        **_HERE,
    )
    decay: float = setting(0.95, "its factor a round", between(0, 1), key="oort-exploration-decay", **_HERE)
    least: float = setting(
        0.2, "its least; at most `oort-exploration`", between(0, 1), key="oort-exploration-least", **_HERE
    )
    cutoff: float = setting(
        0.7, "share of the score at the edge that suffices to be drawn", between(0, 1), key="oort-cutoff", **_HERE
    )
    clip: float = setting(
        0.95, "percentile (0 to 1) at which utilities are cut", between(0, 1), key="oort-clip", **_HERE
    )
    lateness: float = LATENESS.field()
    preferred_seconds: float = PREFERRED_SECONDS.field()
    percent: float = setting(
        30.0,
        "T is this percentile of the known seconds when the pacer starts; 100 is no limit",
        between(0, 100),
        key="oort-pacer-percent",
        **_HERE,
    )
    pacer_rounds: int = setting(
        20, "the pacer looks every so many rounds", at_least(1), key="oort-pacer-rounds", **_HERE
    )
    pacer_step: float = setting(5.0, "and moves by so many percent", between(0, 100), key="oort-pacer-step", **_HERE)
    compare: str = setting("tier-rank", "see `Utility`", Names(WITHOUT_PROBE), key="selection-compare", listed=False)

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            SettingError: see there.
        """
        check(self)
        if self.least > self.exploration:
            raise SettingError("oort-exploration-least", self.least, f"0 to {self.exploration:g} (oort-exploration)")

    @property
    def squares(self) -> bool:
        """U needs the square of the loss."""
        return True

    def select(self, candidates: Candidates, count: int, draws: np.random.Generator, probe: Probe) -> Selection:
        """Exploit, explore, and fill up at random."""
        del probe
        utilities = self.utilities(candidates)
        limit = self.preferred_seconds or self._paced(candidates, utilities)
        speed = lateness(candidates.seconds, limit, self.lateness)
        tried = np.flatnonzero(~np.isnan(utilities))
        new = np.flatnonzero(np.isnan(utilities) & (candidates.selected == 0))
        exploited = self._exploit(candidates, utilities, speed, tried, count, len(new), draws)
        explored = self._explore(candidates, new, min(len(new), count - len(exploited)), draws)
        chosen = np.concatenate([exploited, explored])
        if len(chosen) < count:
            rest = np.setdiff1d(np.arange(len(candidates)), chosen)
            chosen = np.concatenate([chosen, draws.permutation(rest)[: count - len(chosen)]])
        candidates.notes["exploited"] = [candidates.nodes[i] for i in exploited.tolist()]
        return candidates.selection(chosen)

    def epsilon(self, round_number: int) -> float:
        """Share of a 1-based round that explores, as long as somebody is new."""
        return max(self.least, self.exploration * self.decay**round_number)

    def utilities(self, candidates: Candidates) -> Floats:
        """U of every candidate; NaN for those that have not trained."""
        losses = np.sqrt(candidates.loss_square)
        if self.compare == "tier-rank":
            losses = within_tiers(losses, candidates.loss_tiers)
        return candidates.processed * losses

    def scores(self, candidates: Candidates, utilities: Floats, speed: Floats, tried: Positions) -> Floats:
        """Scores of those that have a utility, (len(tried),)."""
        own = utilities[tried]
        bound = _at(own, self.clip)
        least = 0.999 * own.min()  # nobody's score is 0
        scale = max(float(own.max() - least), 1e-4)
        waiting = np.sqrt(0.1 * np.log(candidates.round_number) / candidates.last_round[tried])
        return np.asarray(((np.minimum(own, bound) - least) / scale + waiting) * speed[tried])

    def _exploit(
        self,
        candidates: Candidates,
        utilities: Floats,
        speed: Floats,
        tried: Positions,
        count: int,
        new: int,
        draws: np.random.Generator,
    ) -> Positions:
        share = self.epsilon(candidates.round_number) if new else 0.0
        wanted = min(int(count * (1 - share)), len(tried))
        if not wanted:
            return np.empty(0, dtype=np.intp)
        scores = self.scores(candidates, utilities, speed, tried)
        last = max(0, len(scores) - 1 - wanted)  # counted from below: the best one that is one too many
        edge = np.partition(scores, last)[last]
        pool = np.flatnonzero(scores >= self.cutoff * edge)
        return tried[pool[in_proportion(scores[pool], wanted, draws)]]

    def _explore(self, candidates: Candidates, new: Positions, wanted: int, draws: np.random.Generator) -> Positions:
        """New devices, in proportion to their data, among the largest; nobody knows how fast they are."""
        sizes = candidates.processed[new]
        pool = largest(sizes, _WINDOW * wanted, draws)
        return new[pool[in_proportion(sizes[pool], wanted, draws)]]

    def _paced(self, candidates: Candidates, utilities: Floats) -> float:
        """T by the pacer, in seconds; it moves at most once a round, and notes what it saw."""
        notes, step, number = candidates.notes, self.pacer_rounds, candidates.round_number
        percent = float(notes.get("percent", self.percent))
        history = [float(gained) for gained in notes.get("gained", [])]
        history.append(self._gained(candidates, utilities))
        if number >= 2 * step and number % step == 0:
            before, now = sum(history[-2 * step : -step]), sum(history[-step:])
            if abs(now - before) <= 0.1 * before:
                percent = min(100.0, percent + self.pacer_step)
            elif abs(now - before) >= 5 * before:
                percent = max(self.pacer_step, percent - self.pacer_step)
        notes |= {"percent": percent, "gained": history[-2 * step :]}
        known = candidates.seconds[~np.isnan(candidates.seconds)]
        return _at(known, percent / 100) if percent < 100 and len(known) else np.inf

    def _gained(self, candidates: Candidates, utilities: Floats) -> float:
        """Mean utility of those exploited last round, of whom a reply came."""
        exploited = set(candidates.notes.get("exploited", ()))
        came = np.flatnonzero((candidates.last_round == candidates.round_number - 1) & ~np.isnan(utilities))
        gained = [float(utilities[i]) for i in came.tolist() if candidates.nodes[i] in exploited]
        return sum(gained) / (len(gained) + 1e-4)


def _at(values: Floats, share: float) -> float:
    """The value that this share of the others lies below."""
    place = min(int(len(values) * share), len(values) - 1)
    return float(np.partition(values, place)[place])
