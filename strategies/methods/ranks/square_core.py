"""Fed-SB (Singhal et al., 2025, arXiv 2502.15436): a square core between two frozen factors is trained and averaged.

ΔW = (α/R)·B·C·A, and with B and A the same for everybody Σ p_k·B·C_k·A is B·(Σ p_k·C_k)·A: the average of the cores by
coordinate *is* that of the products. R² numbers a layer travel, whatever its size. Of unlike ranks, of which the
paper's experiments do not speak, a device of rank r has the leading r x r block of C between the first r rows of A and
columns of B; coordinate (i, j) is averaged over those of rank max(i, j) or more.

The paper takes B and A from the leading singular vectors of an estimate of the full update, a step's gradient on some
examples, and begins C with the singular values; its method needs these once and the same on every device. A server here
has no examples, and singular vectors differ in their signs and last bits from machine to machine. So B and A are
orthonormal as in the paper, but drawn (`models.adapters.cores`), and C begins at zero: the first round starts from the
base. Random directions hold less of an update than the leading ones do; it takes a larger R.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from models.adapters.adapter import CORE, Adapter
from protocol import Scalar
from strategies.methods.ranks.base import RankMethod
from strategies.settings import Settings


class FedSB(RankMethod):
    """The leading block of a core, averaged over those who held it.

    Equation: ΔW = (α/R)·B·C·A with B and A fixed; C[i, j] becomes Σ nₖ·Cₖ[i, j] / Σ nₖ over the devices of rank
    above max(i, j).

    Traps: B and A are drawn here, which holds less of an update than the paper's singular vectors: it takes a
    larger R.
    """

    @classmethod
    def form(cls, adapter: Adapter, settings: Settings, options: Mapping[str, Scalar]) -> Adapter:
        """With cores in place of pairs."""
        del options
        return replace(adapter, form=CORE, seed=settings.seed)
