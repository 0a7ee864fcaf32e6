"""What the members of a cluster want to change, on coordinates that can be compared: norms and similarities.

CFL compares updates Δ_i by their cosine, α_ij = ⟨Δ_i, Δ_j⟩ / (‖Δ_i‖ ‖Δ_j‖) (Sattler et al. 2020, eq. 11). Devices that
hold different parts of the network share only some coordinates: sums then run over those that both hold, and norms are
root mean squares per coordinate, so that a large part is not a large update. Two members that share few coordinates are
not compared: parts drawn at random always have the biases of the classes in common, and the cosine of ten numbers is
noise.

A quantised update is Q_i = Δ_i + noise of mean zero, each client's own. Inner products of two of them are right in
expectation, but ‖Q_i‖ is too long, so that ⟨Q_i, Q_j⟩ / (‖Q_i‖ ‖Q_j‖) shrinks as the noise grows. So norms are those of
Δ (`shares`), and the noise's part of ‖mean Q‖² is taken off it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol import NodeId

_CHUNK = 4096  # coordinates whose float64 copies are made at a time
_ENOUGH = 1024  # shared coordinates that suffice, whatever share of the members' they are: noise is then about 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Updates:
    """Updates of m members on d coordinates.

    Attributes:
        members: their ids.
        values: float32 (m, d); 0 where a member does not hold the coordinate.
        held: bool (m, d); None where everybody holds everything.
        weights: float64 (m,), positive; the paper's numbers of examples.
        shares: float64 (m,): length of the update itself over that of what arrived; None where nothing was quantised.
    """

    members: Sequence[NodeId]
    values: NDArray[np.float32]
    held: NDArray[np.bool_] | None
    weights: NDArray[np.float64]
    shares: NDArray[np.float64] | None = None

    def norms(self) -> NDArray[np.float64]:
        """Root mean square of each member's update over the coordinates that it holds, float64 (m,)."""
        squares = np.einsum("md,md->m", self.values, self.values, dtype=np.float64)
        counts = np.full(len(squares), self.values.shape[1]) if self.held is None else self.held.sum(1)
        norms: NDArray[np.float64] = np.sqrt(squares / np.maximum(counts, 1))
        return norms if self.shares is None else norms * self.shares

    def mean_norm(self) -> float:
        """Root mean square of the weighted mean, each coordinate over its holders, where there are any."""
        total, count = 0.0, 0
        for values, held in self._chunks():
            weights = np.full(values.shape[1], self.weights.sum()) if held is None else self.weights @ held
            some = weights > 0
            mean = (self.weights @ values)[some] / weights[some]
            total, count = total + float(mean @ mean), count + int(some.sum())
            if self.shares is not None:
                noise = (self.weights**2 * (1 - self.shares**2)) @ values**2
                total -= float((noise[some] / weights[some] ** 2).sum())
        return float(np.sqrt(max(total, 0.0) / max(count, 1)))

    def cosines(self) -> NDArray[np.float64]:
        """α_ij over the coordinates that both hold, float64 (m, m).

        NaN where one is zero there, or where they share less than half of what the smaller one holds (1,024 of a
        larger part suffice).
        """
        m = len(self.values)
        inner, squares = np.zeros((m, m)), np.zeros((m, m))  # ⟨Δ_i, Δ_j⟩; ‖Δ_i‖² on what j holds
        shared = np.zeros((m, m))
        for values, held in self._chunks():
            inner += values @ values.T
            if held is not None:
                squares += (values * values) @ held.T
                shared += held @ held.T
        if self.held is None:
            squares += np.diagonal(inner)[:, None]
        own = np.diagonal(shared)
        if self.shares is not None:
            squares *= (self.shares**2)[:, None]
        return _ratio(inner, squares * squares.T, _enough(shared, np.minimum(own[:, None], own)))

    def _chunks(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64] | None]]:
        for start in range(0, self.values.shape[1], _CHUNK):
            columns = np.s_[:, start : start + _CHUNK]
            held = None if self.held is None else self.held[columns].astype(np.float64)
            yield self.values[columns].astype(np.float64), held


def cosines_with(
    values: NDArray[np.float32], held: NDArray[np.bool_] | None, one: NDArray[np.float32], one_held: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Cosines of m updates (m, d) with one more (d,), float64 (m,), as `Updates.cosines` has them."""
    exact = one.astype(np.float64)
    mask = np.broadcast_to(True, values.shape) if held is None else held
    shared, own = (mask & one_held).sum(1), np.minimum(mask.sum(1), one_held.sum())
    inner, squares = np.zeros(len(values)), np.zeros(len(values))
    for i, row in enumerate(values):
        wide = row.astype(np.float64)
        inner[i] = wide @ exact
        squares[i] = np.square(wide[one_held]).sum() * np.square(exact[mask[i]]).sum()
    return _ratio(inner, squares, _enough(shared, own))


def _enough(shared: NDArray[Any], own: NDArray[Any]) -> NDArray[np.bool_]:
    enough: NDArray[np.bool_] = shared >= np.minimum(_ENOUGH, own / 2)
    return enough


def _ratio(inner: NDArray[np.float64], squares: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.clip(np.where(known & (squares > 0), inner / np.sqrt(squares), np.nan), -1.0, 1.0)
