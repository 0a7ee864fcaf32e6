"""What released code for unlike ranks does in place of what its paper says, in a few lines each, against the law.

Each function is the behaviour of a public repository in our own words (docs/ranks.md names repository and commit); the
law that it misses is one that the rules here keep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from strategies.methods.ranks.het_lora import norm_of_product
from tests.models.algebra.stacked import refactor, stacked

Pairs = Sequence[tuple[Tensor, Tensor]]  # B of (m, r) and A of (r, n), a device


def pairs(ranks: Sequence[int], rows: int = 12, columns: int = 9, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    draws = torch.Generator().manual_seed(seed)
    return [(torch.randn(rows, r, generator=draws), torch.randn(r, columns, generator=draws)) for r in ranks]


def near(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> bool:
    return one.shape == other.shape and bool((one - other).norm() <= tolerance * other.norm())


# ---- FLoRA: the FedIT branch does not average ------------------------------------------------------------------------


def fedit_branch_of_flora(adapters: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Every client but the first is added to a variable of another, misspelt name."""
    weighted = shares[0] * adapters[0]
    for adapter, share in zip(adapters[1:], shares[1:], strict=True):
        wieghted = weighted + share * adapter
        del wieghted
    return weighted


def test_the_fedit_branch_of_flora_is_no_mean() -> None:
    adapters, shares = [a for _, a in pairs([4, 4, 4])], [0.5, 0.3, 0.2]
    mean = torch.stack([share * adapter for share, adapter in zip(shares, adapters, strict=True)]).sum(0)
    found = fedit_branch_of_flora(adapters, shares)
    assert near(found, 0.5 * adapters[0])
    assert not near(found, mean, 0.1)
    same = [adapters[0]] * 3  # a mean of equals is what they are
    assert not near(fedit_branch_of_flora(same, shares), adapters[0], 0.1)


def test_flora_scales_on_the_server_as_no_client_does() -> None:
    """Clients train with α_k/r_k = 2 in front; merged is with α·max(ranks) over the stack's rank in place of 2."""
    ranks = [8, 4, 2]
    found = pairs(ranks)
    trained = torch.stack([2.0 * b @ a for b, a in found]).sum(0) / 3
    stack_b, stack_a = torch.cat([b for b, _ in found], 1), torch.cat([a / 3 for _, a in found])
    merged = (16 * max(ranks) / sum(ranks)) * stack_b @ stack_a
    assert near(2.0 * stack_b @ stack_a, trained)
    assert not near(merged, trained, 0.1)


# ---- FSLoRA: nothing is sketched -------------------------------------------------------------------------------------


def sketch_masks_of_fslora(shapes: Mapping[str, tuple[int, int]], drawn: Sequence[int]) -> dict[str, Tensor]:
    """A parameter's whole name is compared with a part of such a name."""
    masks = {name: torch.ones(shape) for name, shape in shapes.items()}
    for name, mask in masks.items():
        if name == "lora_B":
            mask.fill_(0)[:, list(drawn)] = 1
        if name == "lora_A":
            mask.fill_(0)[list(drawn)] = 1
    return masks


def test_released_fslora_masks_nothing() -> None:
    shapes = {f"base.layers.0.q_proj.lora_{side}.default.weight": (8, 8) for side in "AB"}
    masks = sketch_masks_of_fslora(shapes, [1, 5])
    assert all(mask.all() for mask in masks.values())  # a device of ratio 1/4 trains all of it
    meant = {name.split(".")[-3]: mask for name, mask in masks.items()}
    proper = sketch_masks_of_fslora(dict.fromkeys(meant, (8, 8)), [1, 5])
    assert {int(mask.sum()) for mask in proper.values()} == {16}


# ---- RB-LoRA: V where its transpose is meant -------------------------------------------------------------------------


def reduced_by_rb_lora(product: Tensor, rank: int) -> Tensor:
    """`torch.svd` returns V; its first rows are taken for those of its transpose."""
    u, values, v = torch.svd(product)
    return (u[:, :rank] * values[:rank]) @ v[:rank]


def test_the_svd_of_rb_lora_is_of_another_matrix() -> None:
    ((b, a),) = pairs([4], 16, 16)
    product = b @ a
    error = float((reduced_by_rb_lora(product, 4) - product).norm() / product.norm())
    assert error > 1
    left, right = refactor(stacked([b], [a], [1.0]), 4).pair()
    assert near(left @ right, product)
    assert reduced_by_rb_lora(torch.randn(12, 16), 4).shape == (12, 12)  # of a wide layer not even the shape


# ---- "HetLoRA" in other people's code --------------------------------------------------------------------------------


def padded_mean(found: Pairs, weights: Sequence[float], rank: int) -> tuple[Tensor, Tensor]:
    """Zeros up to the full rank, then a mean over everybody."""
    b, a = torch.zeros(found[0][0].shape[0], rank), torch.zeros(rank, found[0][1].shape[1])
    for (left, right), weight in zip(found, weights, strict=True):
        b[:, : left.shape[1]] += weight / sum(weights) * left
        a[: right.shape[0]] += weight / sum(weights) * right
    return b, a


def test_zero_padding_under_the_name_of_hetlora_has_other_weights() -> None:
    found = pairs([8, 2, 2])
    found[0] = (5 * found[0][0], found[0][1])  # one product is long
    norms = [float((b @ a).norm()) for b, a in found]
    assert [float(norm_of_product(b, a)) for b, a in found] == pytest.approx(norms, rel=1e-5)
    uniform, weighted = padded_mean(found, [1, 1, 1], 8), padded_mean(found, norms, 8)
    assert not near(uniform[0], weighted[0], 0.1)
    assert not near(uniform[1], weighted[1], 0.1)


def test_zero_padding_shrinks_what_nobody_changed() -> None:
    """Idle devices: rank j of the product becomes (N_j/N)² of itself; the mean over holders leaves it."""
    ((b, a),) = pairs([4])
    ranks = [4, 2, 1, 1]
    left, right = padded_mean([(b[:, :r], a[:r]) for r in ranks], [1] * 4, 4)
    for j, holders in enumerate((4, 2, 1, 1)):
        share = (holders / 4) ** 2
        assert near(torch.outer(left[:, j], right[j]), share * torch.outer(b[:, j], a[j]))


# ---- α/r of a lower rank ---------------------------------------------------------------------------------------------


def test_a_scale_by_the_devices_own_rank_breaks_nesting() -> None:
    """α/r in front of r of R ranks, as peft's `rank_pattern` has it: the part is no part of the whole."""
    ((b, a),) = pairs([16])
    alpha, rank, part = 32.0, 16, 4
    whole_at_zero = alpha / rank * torch.cat([b[:, :part], torch.zeros(12, rank - part)], 1) @ a
    assert near(alpha / rank * b[:, :part] @ a[:part], whole_at_zero)  # 2.0 in front of every part
    own = alpha / part * b[:, :part] @ a[:part]
    assert near(own, 4 * whole_at_zero)  # 8.0 in front of this one
