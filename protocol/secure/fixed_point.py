"""Differences as whole numbers, and sums of them back: flwr's quantiser, clipped and stochastic.

A coordinate is clipped to [-c, c] and becomes one of 2^22 + 1 levels, up or down by chance so that its mean is kept. So
many members' levels add up without a carry modulo 2^32, and a sum that is larger than it can be was not unmasked right.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.randomness import numpy_seeded_for_others
from protocol.secure.flwr_blocks import dequantize, quantize
from protocol.secure.masks import Masked

LEVELS = 2**22  # as flwr's SecAgg+ has it
# What is summed beside the difference, and to what it is clipped: mean loss and share of right predictions.
NUMBERS = {"loss": 64.0, "accuracy": 1.0}

Floats = NDArray[np.float64]


def quantised(
    difference: Floats, numbers: Floats, *, weight: float, share: float, clip: float, draws: np.random.Generator
) -> Masked:
    """What a member adds to the sum, before it is masked.

    Args:
        difference: flat.
        numbers: in the order of `NUMBERS`.
        weight: the difference is multiplied by, at most 1.
        share: the numbers are.
        clip: c of the weighted difference.
        draws: rounding up or down.

    Raises:
        ValueError: NaN or infinity.
    """
    if not (np.isfinite(difference).all() and np.isfinite(numbers).all()):
        raise ValueError("the difference or the loss is not finite")
    with numpy_seeded_for_others(draws):
        levels = quantize([weight * difference], clip, LEVELS)
        for number, most in zip(numbers, NUMBERS.values(), strict=True):
            levels += quantize([np.array([share * number])], most, LEVELS)
    return np.concatenate(levels).astype(np.uint32)


def sum_of(total: Masked, members: int, clip: float) -> tuple[Floats, dict[str, float]]:
    """The sum of so many differences, and of their numbers, from the sum of levels modulo 2^32.

    Raises:
        ValueError: larger than so many levels can add up to.
    """
    if int(total.max()) > members * LEVELS:
        raise ValueError(f"the sum is not that of {members} clipped differences")
    cut = len(total) - len(NUMBERS)
    numbers = (_back(total[cut + i : cut + i + 1], members, most)[0] for i, most in enumerate(NUMBERS.values()))
    return _back(total[:cut], members, clip), {name: float(value) for name, value in zip(NUMBERS, numbers, strict=True)}


def step(clip: float) -> float:
    """How far apart two levels are: a member's error in one coordinate is less."""
    return 2 * clip / LEVELS


def _back(total: Masked, members: int, clip: float) -> Floats:
    (found,) = dequantize([total.astype(np.int64)], clip, LEVELS)  # takes one offset away, as if there were one member
    return np.asarray(found - (members - 1) * clip)
