"""A square core between two factors that nobody trains: y = W·x + b + (α/R)·B·C·(A·x), beside a linear layer.

A of (R, n) has orthonormal rows, B of (m, R) orthonormal columns, and C of (R, R) is what is trained, from zero: the
form of LoRA-XS (Bałazy et al., 2024, arXiv 2405.17604). C runs along the rank axis on both sides, so a device of rank r
has its leading r x r block between the first r rows of A and columns of B, and its network is the full one with all
other coordinates of C at zero.

With `heads` C is blocks on a diagonal, each of R/heads ranks and with a scale s: Σ_i s_i·B_i·C_i·A_i, as in RAVAN
(Raje et al., NeurIPS 2025, arXiv 2506.05568). Each is a block of the network that can be left out, or held and not
trained. A scale begins every round at 1, and after training it is multiplied into its head: it is in no state.

The factors are drawn from the run's seed, layer by layer, wherever a network is built. So they are in no state, in no
base and in no message. They are rounded to a grid which is coarse beside float64 and fine beside float32: machines that
add up in another order have the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from models.adapters.adapter import Adapter
from models.adapters.frozen import hold
from models.adapters.own import own
from models.algebra.axes import Dim, Place
from models.algebra.declarations import declare
from models.randomness import torch_generator

CORE, HEADS = "lora_core", "lora_heads"
_GRID = 1 << 20
_KEPT = 512  # layers


def add_core(module: nn.Module, axis: str, *, rank: int, place: Place | None) -> None:
    """Give a module a core of this rank, zero; what it stands between is held already."""
    module.register_parameter(CORE, nn.Parameter(torch.zeros(rank, rank)))
    dims: Mapping[str, tuple[str | Dim, ...]] = {CORE: (axis, axis)}
    declare(module, dims, places=None if place is None else {CORE: place})


class Head(nn.Module):
    """A block of the diagonal, zero, and its scale.

    Args:
        rank: ranks of the block.
    """

    scale: Tensor

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.core = nn.Parameter(torch.zeros(rank, rank))
        own(self, "scale", torch.ones(()))

    @torch.no_grad()
    def fold(self) -> None:
        """Multiply the scale into the block."""
        self.core.mul_(self.scale)
        self.scale.fill_(1.0)


def add_heads(module: nn.Module, *, adapter: Adapter, place: Place | None) -> None:
    """Give a module its heads, zero; what they stand between is held already."""
    heads = nn.ModuleList(Head(adapter.rank // adapter.heads) for _ in range(adapter.heads))
    for block, head in enumerate(heads, 1):
        places = None if place is None else {"core": replace(place, block=block)}
        declare(head, {"core": (None, None)}, block=block, places=places)
    module.add_module(HEADS, heads)


def fold_scales(network: nn.Module) -> None:
    """Multiply every scale that was trained into what it scales."""
    for module in network.modules():
        if isinstance(module, Head):
            module.fold()


def between(module: nn.Module) -> Tensor | None:
    """What stands between a layer's factors, (r, r), if anything does."""
    if hasattr(module, HEADS):
        blocks = [head.scale * head.core for head in getattr(module, HEADS)]
        diagonal: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
        return diagonal
    core: Tensor | None = getattr(module, CORE, None)
    return core


def hold_factors(
    module: nn.Module, names: tuple[str, str], path: str, *, shape: tuple[int, int], adapter: Adapter, rank: int
) -> None:
    """Give a module with the weight of a linear layer two factors that are held and not trained.

    Args:
        module: the layer, or what stands for it.
        names: of A and of B.
        shape: (m, n), outputs and inputs.
        path: its name in the network.
        adapter: full rank and seed.
        rank: of the part, whose factors are the leading ones.
    """
    weight = module.weight
    assert isinstance(weight, Tensor)
    rows, columns = shape
    if weight.is_meta:
        a, b = torch.zeros(rank, columns), torch.zeros(rows, rank)
    else:
        a = _orthonormal(adapter.seed, f"{path}: A", columns, adapter.rank)[:rank]
        b = _orthonormal(adapter.seed, f"{path}: B", rows, adapter.rank)[:rank].T
    for name, factor in zip(names, (a, b), strict=True):
        hold(module, name, factor.to(weight.device))


@lru_cache(maxsize=2 * _KEPT)
def _orthonormal(seed: int, purpose: str, length: int, count: int) -> Tensor:
    """So many orthonormal rows of this length (count, length), by Gram-Schmidt; where there are no more, zeros.

    Its draws are uniform, which all machines round alike.
    """
    draws = torch_generator(seed, 0, "server", purpose)
    possible = min(count, length)
    drawn = torch.rand(length, possible, dtype=torch.float64, generator=draws, device="cpu").mul_(2).sub_(1)
    basis, triangle = torch.linalg.qr(drawn)
    basis = basis * torch.where(triangle.diagonal() < 0, -1.0, 1.0)
    found = torch.zeros(count, length, device="cpu")
    found[:possible] = basis.T.mul(_GRID).round_().div_(_GRID)
    return found
