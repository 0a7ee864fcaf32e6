"""Cutting a cluster in two by the similarity of its members' updates (CFL, Sattler et al. 2020, §III-B, Algorithm 1).

The paper's bipartition minimises the largest similarity across the cut, α_cross^max = max {α_ij : i in c1, j in c2}.
Joining the most similar pair until two groups are left finds it exactly: that is *single linkage*, or removing the
weakest edge of a maximum spanning tree. The authors' code uses *complete linkage*, which on unstructured matrices
mostly misses the optimum; on well separated groups both are right.

Members are known by their ids here, never by their place in a matrix: the authors' code confuses the two, so that every
split after the first assigns the wrong clients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.errors import SettingError

Member = TypeVar("Member")
Matrix = NDArray[np.float64]

LINKAGES = ("single", "complete")


@dataclass(frozen=True, slots=True)
class Cut(Generic[Member]):
    """A cluster in two.

    Attributes:
        groups: ids of both groups, in the order of the members; the first group has the first member.
        cross: largest similarity across the cut, α_cross^max.
        intra: smallest similarity inside a group, α_intra^min; 1 where no group has a pair.
    """

    groups: tuple[tuple[Member, ...], tuple[Member, ...]]
    cross: float
    intra: float


def bipartition(members: Sequence[Member], similarity: Matrix, linkage: str = "single") -> Cut[Member]:
    """Cut members in two groups.

    Args:
        members: ids, at least two.
        similarity: symmetric (m, m), in the order of `members`; the diagonal is not read.
        linkage: one of `LINKAGES`.

    Raises:
        ValueError: fewer than two members, a matrix of another size, or one that is not finite off its diagonal.
        SettingError: an unknown linkage.
    """
    count = len(members)
    others = ~np.eye(count, dtype=bool)
    if count < 2 or similarity.shape != (count, count) or not np.isfinite(similarity[others]).all():
        raise ValueError(f"expected the finite similarities of two or more members, got {similarity.shape} of {count}")
    if linkage not in LINKAGES:
        raise SettingError("cfl-linkage", linkage, LINKAGES)
    matrix = np.where(others, similarity, -np.inf)
    first = _single(matrix) if linkage == "single" else _complete(matrix)
    inside = (first[:, None] == first[None, :]) & others
    return Cut(
        (
            tuple(member for member, among in zip(members, first, strict=True) if among),
            tuple(member for member, among in zip(members, first, strict=True) if not among),
        ),
        float(similarity[np.ix_(first, ~first)].max()),
        float(similarity[inside].min()) if inside.any() else 1.0,
    )


def _single(matrix: Matrix) -> NDArray[np.bool_]:
    """Who stays with member 0 when a maximum spanning tree (Prim, O(m²)) loses its weakest edge."""
    count = len(matrix)
    outside = np.ones(count, dtype=bool)
    outside[0] = False
    nearest, best = np.zeros(count, dtype=np.int64), matrix[0].copy()  # of those outside: their neighbour in the tree
    edges: list[tuple[int, int, float]] = []
    for _ in range(count - 1):
        new = int(np.where(outside, best, -np.inf).argmax())
        edges.append((new, int(nearest[new]), float(best[new])))
        outside[new] = False
        closer = outside & (matrix[new] > best)
        best[closer], nearest[closer] = matrix[new, closer], new
    weakest = min(range(count - 1), key=lambda i: edges[i][2])
    first = np.zeros(count, dtype=bool)
    first[0] = True
    for i, (new, neighbour, _) in enumerate(edges):  # a neighbour is in the tree before those that it brings
        first[new] = i != weakest and first[neighbour]
    return first


def _complete(matrix: Matrix) -> NDArray[np.bool_]:
    """Join the two groups whose least similar pair is the most similar, until two are left."""
    between = matrix.copy()
    group: NDArray[np.int64] = np.arange(len(matrix))
    for _ in range(len(matrix) - 2):
        kept, gone = sorted(divmod(int(between.argmax()), len(matrix)))
        between[kept] = np.minimum(between[kept], between[gone])
        between[:, kept] = between[kept]
        between[kept, kept] = -np.inf
        between[gone] = between[:, gone] = -np.inf
        group[group == gone] = kept
    first: NDArray[np.bool_] = group == group[0]
    return first
