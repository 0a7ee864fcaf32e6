"""What the guard can be told, by the names of the run config."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from models.algebra.average import PartialAverage
from models.algebra.axes import Layout
from models.algebra.robust_average import MEANS, Kind, RobustAverage
from models.errors import SettingError
from strategies.exchange.update import MOST_EXAMPLES

NORM_GUARDS = ("off", "zero", "clip", "both")


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardOptions:
    """NormBounds of what one reply, or too few of them, can do.

    Attributes:
        guard_norm: what becomes of long differences: one of `NORM_GUARDS` (see `strategies.robustness.norm_bounds`).
        guard_zero_quantile, guard_zero_start: of the norms of a tier, and its value before anything is known.
        guard_clip_quantile, guard_clip_start: likewise.
        guard_examples: "least, most" numbers of examples that a reply may weigh; "" is as it says.
        guard_mean: one of `models.algebra.robust_average.MEANS`.
        guard_faulty: f of the trimmed mean and the median.
        min_cover: coordinates with fewer holders keep their value.
        dp_noise, dp_clip, dp_delta, dp_epsilon: see `strategies.robustness.privacy`; a noise of 0 is off.
        examples: `guard_examples` as numbers.

    Raises:
        SettingError: names the key, the value and what is allowed.
    """

    guard_norm: str = "off"
    guard_zero_quantile: float = 0.98
    guard_zero_start: float = 10.0
    guard_clip_quantile: float = 0.8
    guard_clip_start: float = 1.0
    guard_examples: str = ""
    guard_mean: str = "mean"
    guard_faulty: int = 1
    min_cover: int = 1
    dp_noise: float = 0.0
    dp_clip: float = 1.0
    dp_delta: float = 1e-5
    dp_epsilon: float = 0.0
    examples: tuple[float, float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check ranges and closed sets."""
        for key, value, allowed in (
            ("guard-norm", self.guard_norm, NORM_GUARDS),
            ("guard-mean", self.guard_mean, MEANS),
        ):
            if value not in allowed:
                raise SettingError(key, value, allowed)
        for key, number, fits, wanted in (
            ("guard-zero-quantile", self.guard_zero_quantile, 0 < self.guard_zero_quantile < 1, "between 0 and 1"),
            ("guard-zero-start", self.guard_zero_start, self.guard_zero_start > 0, "more than 0"),
            ("guard-clip-quantile", self.guard_clip_quantile, 0 < self.guard_clip_quantile < 1, "between 0 and 1"),
            ("guard-clip-start", self.guard_clip_start, self.guard_clip_start > 0, "more than 0"),
            ("guard-faulty", self.guard_faulty, self.guard_faulty >= 0, "a whole number of at least 0"),
            ("min-cover", self.min_cover, self.min_cover >= 1, "a whole number of at least 1"),
            ("dp-noise", self.dp_noise, self.dp_noise >= 0, "0 (off) or more"),
            ("dp-clip", self.dp_clip, self.dp_clip > 0, "more than 0"),
            ("dp-delta", self.dp_delta, 0 < self.dp_delta < 1, "between 0 and 1"),
            ("dp-epsilon", self.dp_epsilon, self.dp_epsilon >= 0, "0 (no limit) or more"),
        ):
            if not fits:
                raise SettingError(key, number, wanted)
        object.__setattr__(self, "examples", _range(self.guard_examples))

    @property
    def zeroes(self) -> bool:
        """Whether very long differences are rejected."""
        return self.guard_norm in ("zero", "both")

    @property
    def clips(self) -> bool:
        """Whether long differences are shortened."""
        return self.guard_norm in ("clip", "both")

    def average(self, layout: Layout, *, per_coordinate: bool) -> PartialAverage:
        """What replies are added to."""
        if self.guard_mean == "mean":
            return PartialAverage(layout, per_coordinate=per_coordinate)
        kind = cast(Kind, self.guard_mean)
        return RobustAverage(layout, kind, self.guard_faulty, per_coordinate=per_coordinate)


def _range(text: str) -> tuple[float, float]:
    if not text.strip():
        return 0.0, float(MOST_EXAMPLES)
    try:
        least, most = (int(part) for part in text.split(","))
    except ValueError:
        least, most = 0, -1
    if not 1 <= least <= most <= MOST_EXAMPLES:
        raise SettingError("guard-examples", text, '"", or two whole numbers, least and most, such as "10, 500"')
    return float(least), float(most)
