"""Which runs docs/evidence.md stands for: methods, data, divisions, seeds, and what all rows of a part share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.experiments.evidence.limits import LIMITS, within
from benchmarks.experiments.evidence.settings import COMMON, DATA, METHODS, OWN, SPLITS, Keys
from flotilla.settings import Value
from flotilla.studies.plan import Cell

SEEDS = (1, 2, 3)
# Part → data set, and settings of the division, in the order in which they are run; parts under limits have tiers and
# rows of their own.
PARTS: Mapping[str, tuple[str, Keys]] = {
    **{f"fashion-{split}": ("fashion", keys) for split, keys in SPLITS.items()},
    **{f"limit-{limit}": ("fashion", SPLITS["dirichlet-0.6"]) for limit in LIMITS},
    "har-subjects": ("har", {}),
    "text-speakers": ("text", {}),
    **{f"cifar-{split}": ("cifar", keys) for split, keys in SPLITS.items()},
}

# Where devices are asked in every round how their tier's network does on their own examples: half of a run's time.
ASKED = ("fashion-dirichlet-0.3", "har-subjects")


def rows_of(part: str) -> Sequence[str]:
    """The rows of a part."""
    return list(within(part.removeprefix("limit-"))) if part.startswith("limit-") else list(METHODS)


def cells(parts: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, str, Cell]]:
    """Part, row and run, seed by seed: what is stopped has all rows of the first seeds.

    Args:
        parts: of `PARTS`.
        seeds: of the runs.
    """
    return [
        (part, row, Cell(row=f"{part}: {row}", seed=seed, keys={**keys_of(part, row), "seed": seed}))
        for seed in seeds
        for part in parts
        for row in rows_of(part)
    ]


def keys_of(part: str, row: str) -> dict[str, Value]:
    """The settings of a row but for its seed."""
    data, split = PARTS[part]
    shared = {**COMMON, **DATA[data], **split, "fraction-evaluate": float(part in ASKED)}
    if part.startswith("limit-"):
        return {**shared, **within(part.removeprefix("limit-"))[row]}
    return {**shared, **METHODS[row], **OWN.get(row, {})}
