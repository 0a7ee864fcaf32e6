"""What the guard can be told, by the names of the run config."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from models.algebra.average import PartialAverage
from models.algebra.axes import Layout
from models.algebra.robust_average import MEANS, Kind, RobustAverage
from models.errors import SettingError
from models.settings import Names, Range, Text, at_least, check, more_than, setting
from strategies.exchange.update import MOST_EXAMPLES

NORM_GUARDS = ("off", "zero", "clip", "both")
_ZERO, _CLIP = "guard-norm = zero, both", "guard-norm = clip, both"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardOptions:
    """Limits of what one reply, or too few of them, can do.

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

    guard_norm: str = setting(
        "off",
        "`off`, or the L2 norm of a difference against a running quantile of its tier: `zero` rejects what is longer"
        " than twice the 0.98 quantile, `clip` shortens what is longer than the 0.8 quantile, `both`",
        Names(NORM_GUARDS),
    )
    guard_examples: str = setting(
        "",
        '`"least, most"`: a reply weighs as if it had at least and at most so many examples, such as `"10, 500"`; empty'
        " takes its word",
        Text('"", or two whole numbers, least and most, such as "10, 500"'),
    )
    guard_mean: str = setting(
        "mean",
        "what a coordinate moves by: `mean` is the method's; `trimmed-mean` (without the f lowest and highest) and"
        " `median` are taken over those who hold it, unweighted, if these are at least 2f + 1, else it keeps its value."
        " The server then holds every reply of a round. Not with clusters, nor where fewer than 2f + 1 nodes train in a"
        " round",
        Names(MEANS),
    )
    guard_faulty: int = setting(
        1, "f: how many wrong replies a coordinate bears", at_least(0), read_by="guard-mean = trimmed-mean, median"
    )
    min_cover: int = setting(
        1,
        "a coordinate with fewer holders than this in a round keeps its value, bit for bit; at most as many as train in"
        " a round",
        at_least(1),
    )
    dp_noise: float = setting(
        0.0,
        "z: noise N(0, (z·`dp-clip`)²) on every sum of differences, for central differential privacy of the global"
        " states by node; 0 is off",
        at_least(0),
    )
    dp_clip: float = setting(
        1.0, "L2 norm to which every difference is then clipped", more_than(0), read_by="dp-noise above 0"
    )
    dp_delta: float = setting(
        1e-5,
        "δ at which ε is reported (`guard` in `metrics.jsonl`)",
        Range(0, 1, above=True, below=True),
        read_by="dp-noise above 0",
    )
    dp_epsilon: float = setting(
        0.0,
        "most that a run may spend; more rounds than it pays for are refused. 0 is no limit",
        at_least(0),
        read_by="dp-noise above 0",
    )
    guard_zero_quantile: float = setting(
        0.98, "the quantile of `zero`", Range(0, 1, above=True, below=True), advanced=True, read_by=_ZERO
    )
    guard_zero_start: float = setting(
        10.0, "its value before anything is known", more_than(0), advanced=True, read_by=_ZERO
    )
    guard_clip_quantile: float = setting(
        0.8, "the quantile of `clip`", Range(0, 1, above=True, below=True), advanced=True, read_by=_CLIP
    )
    guard_clip_start: float = setting(
        1.0, "its value before anything is known", more_than(0), advanced=True, read_by=_CLIP
    )
    examples: tuple[float, float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check ranges and closed sets."""
        check(self)
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
