"""What clusters can be told, by the names of the run config, and the kinds of clustering by theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from models.errors import SettingError
from models.registry import Registry
from models.settings import ELSEWHERE, Names, at_least, between, check, setting
from strategies.clustering.base import Basis, Clustering
from strategies.clustering.cfl import CFL
from strategies.clustering.ifca import AVERAGING, IFCA
from strategies.clustering.linkage import LINKAGES
from strategies.clustering.split import SplitRule

_IFCA, _CFL = "clustering = ifca", "clustering = cfl"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """Settings of all clusterings; each takes its own. Thresholds of CFL: see `SplitRule`.

    Attributes:
        clustering: one of `CLUSTERINGS`.
        ifca_clusters: k.
        ifca_averaging: one of `AVERAGING`.
        ifca_shared: whether clusters share all but the exits.
        ifca_restarts: how often the initial states may be drawn again.
        ifca_least_share: share of the nodes that every cluster must have before round 1; looked at if restarts are on.
        cfl_mean_norm, cfl_largest_norm, cfl_gamma, cfl_linkage: see `SplitRule`.
        cfl_first_round: no split before this round.
        cfl_most_clusters: no split beyond this number of clusters; 0 is no limit.
        cfl_sample: coordinates on which updates are compared, at most.

    Raises:
        SettingError: names the key, the value and what is allowed.
    """

    clustering: str = setting(
        "none",
        "`none`; `ifca`: a fixed number of states, every node trains the one that fits its examples best; `cfl`: one"
        " cluster, cut in two where updates disagree",
        Names(lambda: CLUSTERINGS, ELSEWHERE),
    )
    ifca_clusters: int = setting(
        2,
        "number of states, at most as many as nodes; the downlink is as many times as large",
        at_least(1),
        read_by=_IFCA,
    )
    ifca_averaging: str = setting(
        "model",
        "`model`: the mean over those who chose a cluster; `gradient`: divided by all participants",
        Names(AVERAGING),
        read_by=_IFCA,
    )
    ifca_shared: bool = setting(False, "the clusters share everything but the exits", read_by=_IFCA)
    ifca_restarts: int = setting(
        0, "how often the initial states may be drawn again before round 1", at_least(0), read_by=_IFCA
    )
    ifca_least_share: float = setting(
        0.1,
        "share of the nodes that every cluster must have then; looked at with `ifca-restarts` only",
        between(0, 1),
        read_by=_IFCA,
    )
    cfl_mean_norm: float = setting(
        0.35,
        "ε1: a cluster is cut only if its mean update is below this share of the first round's norm; 0 never cuts",
        at_least(0),
        read_by=_CFL,
    )
    cfl_largest_norm: float = setting(
        0.5, "ε2: and only if some member's update is above this share", at_least(0), read_by=_CFL
    )
    cfl_gamma: float = setting(
        0.72,
        "γ: and only if the similarity across the cut is below 1 − 2γ²; 0 takes every cut, 1 none",
        between(0, 1),
        read_by=_CFL,
    )
    cfl_first_round: int = setting(5, "no cut before this round", at_least(1), read_by=_CFL)
    cfl_linkage: str = setting(
        "single",
        "how the cut is found: `single` (exact), `complete` (the authors' code)",
        Names(LINKAGES),
        advanced=True,
        read_by=_CFL,
    )
    cfl_most_clusters: int = setting(
        8, "no cut beyond this number of clusters; 0 is no limit", at_least(0), advanced=True, read_by=_CFL
    )
    cfl_sample: int = setting(
        65536, "coordinates on which updates are compared, at most", at_least(2), advanced=True, read_by=_CFL
    )
    rule: SplitRule = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check ranges and closed sets."""
        check(self)
        CLUSTERINGS[self.clustering]  # or an error that says what there is
        if self.ifca_restarts and self.ifca_least_share * self.ifca_clusters > 1:
            allowed = f"0 to 1/{self.ifca_clusters} with ifca-restarts: all {self.ifca_clusters} clusters must have it"
            raise SettingError("ifca-least-share", self.ifca_least_share, allowed)
        rule = SplitRule(
            mean_norm=self.cfl_mean_norm,
            largest_norm=self.cfl_largest_norm,
            gamma=self.cfl_gamma,
            linkage=self.cfl_linkage,
        )
        object.__setattr__(self, "rule", rule)


def clustering(options: ClusterOptions, basis: Basis) -> Clustering:
    """Make the clustering that the options name."""
    return CLUSTERINGS[options.clustering](options, basis)


def _ifca(o: ClusterOptions, basis: Basis) -> Clustering:
    return IFCA(
        basis,
        o.ifca_clusters,
        o.ifca_averaging,
        shared=o.ifca_shared,
        restarts=o.ifca_restarts,
        least_share=o.ifca_least_share,
    )


def _cfl(o: ClusterOptions, basis: Basis) -> Clustering:
    return CFL(basis, o.rule, first_round=o.cfl_first_round, most_clusters=o.cfl_most_clusters, sample=o.cfl_sample)


Maker = Callable[[ClusterOptions, Basis], Clustering]


def _foreign(found: object) -> Maker | None:
    if not (isinstance(found, type) and issubclass(found, Clustering)):
        return None
    kind: type[Clustering] = found
    return lambda _, basis: kind(basis)


CLUSTERINGS: Registry[Maker] = Registry(
    "clustering",
    group="flotilla.clusterings",
    expected="a subclass of strategies.clustering.Clustering, made with its basis alone",
    check=_foreign,
    built_in={"none": lambda _, basis: Clustering(basis), "ifca": _ifca, "cfl": _cfl},
)
