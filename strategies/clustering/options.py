"""What clusters can be told, by the names of the run config, and the kinds of clustering by theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from models.errors import SettingError
from models.registry import Registry
from strategies.clustering.base import Basis, Clustering
from strategies.clustering.cfl import CFL
from strategies.clustering.ifca import AVERAGING, IFCA
from strategies.clustering.split import SplitRule


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

    clustering: str = "none"
    ifca_clusters: int = 2
    ifca_averaging: str = "model"
    ifca_shared: bool = False
    ifca_restarts: int = 0
    ifca_least_share: float = 0.1
    cfl_mean_norm: float = 0.35
    cfl_largest_norm: float = 0.5
    cfl_gamma: float = 0.72
    cfl_linkage: str = "single"
    cfl_first_round: int = 5
    cfl_most_clusters: int = 8
    cfl_sample: int = 65536
    rule: SplitRule = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check ranges and closed sets."""
        CLUSTERINGS[self.clustering]  # or an error that says what there is
        if self.ifca_averaging not in AVERAGING:
            raise SettingError("ifca-averaging", self.ifca_averaging, AVERAGING)
        for key, least in (
            ("ifca_clusters", 1),
            ("ifca_restarts", 0),
            ("cfl_first_round", 1),
            ("cfl_most_clusters", 0),
            ("cfl_sample", 2),
        ):
            if getattr(self, key) < least:
                raise SettingError(key.replace("_", "-"), getattr(self, key), f"a whole number of at least {least}")
        if not 0 <= self.ifca_least_share <= 1:
            raise SettingError("ifca-least-share", self.ifca_least_share, "0 to 1")
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
