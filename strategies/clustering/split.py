"""When CFL cuts a cluster in two (Sattler, Müller, Samek, TNNLS 2020, §III-C and Algorithm 3).

    ‖Σ_i |D_i|/|D_c| Δ_i‖ < ε1      the cluster is stationary: its mean update is small
    max_i ‖Δ_i‖ > ε2                 its members are not: somebody still wants to go somewhere
    α_cross^max < 1 − 2·γ²           the cut is no artefact of noise: γ_max < √((1 − α_cross^max)/2)

The paper's ε are absolute, so they depend on the network, the learning rate and the number of local steps. Here both
are shares of one reference, the members' mean norm in the run's first round, and all norms are per coordinate and
divided by the round's learning rate: a schedule that decays is no convergence. The reference is the members' mean norm
and not the norm of their mean, because members that disagree from the start would otherwise lower it. With several
epochs of SGD the two norm tests alone hardly tell planted groups from IID clients (docs/clusters.md has the numbers):
noise keeps the members' updates long while their mean is short. The third test does, which the authors' code leaves
out: the noise of IID clients is nearly orthogonal (α ≈ 0), and groups that pull apart have α_cross < 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.errors import SettingError
from protocol import NodeId
from strategies.clustering.linkage import LINKAGES, Cut, bipartition
from strategies.clustering.updates import Updates

_FEWEST = 3  # a pair is not cut: its halves would be clients alone (the authors' code has |c| > 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRule:
    """Thresholds of the three tests.

    Attributes:
        mean_norm: ε1, at least 0; 0 never splits.
        largest_norm: ε2, at least 0.
        gamma: bound on noise over gradient, 0 to 1; 1 never splits, and 0 takes every cut.
        linkage: how the cut is found, one of `LINKAGES`.
    """

    mean_norm: float = 0.35
    largest_norm: float = 0.5
    gamma: float = 0.72
    linkage: str = "single"

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            SettingError: names the run-config key.
        """
        for key, value in (("cfl-mean-norm", self.mean_norm), ("cfl-largest-norm", self.largest_norm)):
            if not value >= 0:
                raise SettingError(key, value, "0 or more")
        if not 0 <= self.gamma <= 1:
            raise SettingError("cfl-gamma", self.gamma, "0 to 1")
        if self.linkage not in LINKAGES:
            raise SettingError("cfl-linkage", self.linkage, LINKAGES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the tests found.

    Attributes:
        mean: ‖mean Δ‖ over the reference.
        largest: max ‖Δ‖ over the reference.
        cut: the bipartition, where norms asked for one and it could be found; members with a zero update are left out.
        accepted: whether the cluster is to be cut so.
    """

    mean: float
    largest: float
    cut: Cut[NodeId] | None = None
    accepted: bool = False


def judge(updates: Updates, rule: SplitRule, reference: float) -> Verdict:
    """Test a cluster.

    Args:
        updates: of its members this round.
        rule: thresholds.
        reference: mean norm of members in the first round, in the unit of the updates; positive.
    """
    norms = updates.norms()
    mean, largest = updates.mean_norm() / reference, float(norms.max(initial=0.0)) / reference
    moving = norms > 0  # a zero update has no direction
    if not (mean < rule.mean_norm and largest > rule.largest_norm and moving.sum() >= _FEWEST):
        return Verdict(mean=mean, largest=largest)
    members = [member for member, some in zip(updates.members, moving, strict=True) if some]
    cosines = updates.cosines()[np.ix_(moving, moving)]
    if not np.isfinite(cosines).all():  # a pair that shares no coordinate cannot be judged
        return Verdict(mean=mean, largest=largest)
    cut = bipartition(members, cosines, rule.linkage)
    return Verdict(mean=mean, largest=largest, cut=cut, accepted=cut.cross < 1 - 2 * rule.gamma**2)
