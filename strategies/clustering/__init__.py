"""Clusters: several global states, and who trains which."""

from __future__ import annotations

from strategies.clustering.base import Basis, Clustering
from strategies.clustering.cfl import CFL
from strategies.clustering.ifca import AVERAGING, IFCA
from strategies.clustering.linkage import LINKAGES
from strategies.clustering.options import CLUSTERINGS, ClusterOptions, clustering

__all__ = ["AVERAGING", "CFL", "CLUSTERINGS", "IFCA", "LINKAGES", "Basis", "ClusterOptions", "Clustering", "clustering"]
