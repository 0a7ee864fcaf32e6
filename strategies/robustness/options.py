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

NORM_GUARDS = ("auto", "off", "zero", "clip", "both")
_ZERO, _CLIP = "guard-norm = auto, zero, both", "guard-norm = clip, both"
_RANGE = '"auto", "", or two whole numbers, least and most, such as "10, 500"'


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardOptions:
    """Limits of what one reply, or too few of them, can do.

    Attributes:
        guard: whether what a node says is held against what others say.
        guard_norm: what becomes of long differences: one of `NORM_GUARDS` (see `strategies.robustness.norm_bounds`).
        guard_zero_multiple: how many times what is usual a difference may be long.
        guard_clip_quantile, guard_clip_start: of the norms of a tier, and its value before anything is known.
        guard_examples: "least, most" numbers of examples that a reply may weigh; "" is as it says, "auto" goes by what
            the others say (see `strategies.robustness.examples`).
        guard_rollbacks: how often a run goes back to the last good checkpoint; see `server_app.loss_watch`.
        guard_mean: one of `models.algebra.robust_average.MEANS`.
        guard_faulty: f of the trimmed mean and the median.
        min_cover: coordinates with fewer holders keep their value.
        dp_noise, dp_clip, dp_delta, dp_epsilon: see `strategies.robustness.privacy`; a noise of 0 is off.
        examples: `guard_examples` as numbers.
        zeroes: whether very long differences are rejected.
        clips: whether long differences are shortened.
        range_of_examples: whether replies weigh within a range that is set.

    Raises:
        SettingError: names the key, the value and what is allowed.
    """

    guard: bool = setting(
        True,
        "whether the numbers that a node says are held against those of the others: examples, losses, moments of static"
        " batch norm, and how long its difference is; honest runs come out the same with it and without, but where the"
        " largest nodes have several times the examples of nine in ten. `false` takes every word",
    )
    guard_norm: str = setting(
        "auto",
        "the L2 norm of a difference against what is usual in its tier, a running median: `zero` rejects what is longer"
        " than four times that, `clip` shortens what is longer than the 0.8 quantile, `both`, `off`; `auto` is `zero`"
        " with `guard` and without `dp-noise` and `secure-aggregation`",
        Names(NORM_GUARDS),
    )
    guard_examples: str = setting(
        "auto",
        '`"least, most"`: a reply weighs as if it had at least and at most so many examples, such as `"10, 500"`; empty'
        " takes a node's word; `auto` does without `guard`, and with it nobody has more than three times the 0.9"
        " quantile of what nodes say. A reply never weighs more than its node said in the beginning",
        Text(_RANGE),
    )
    guard_rollbacks: int = setting(
        3,
        "how often a run whose loss explodes goes back to the last good checkpoint and on without the node that came"
        " furthest; once more, and it ends with an error. 0 goes on whatever happens, and is what `dp-noise` needs",
        at_least(0),
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
    guard_zero_multiple: float = setting(
        4.0, "how many times what is usual `zero` lets in", more_than(1), advanced=True, read_by=_ZERO
    )
    guard_clip_quantile: float = setting(
        0.8, "the quantile of `clip`", Range(0, 1, above=True, below=True), advanced=True, read_by=_CLIP
    )
    guard_clip_start: float = setting(
        1.0, "its value before anything is known", more_than(0), advanced=True, read_by=_CLIP
    )
    examples: tuple[float, float] = field(init=False, repr=False, compare=False)
    zeroes: bool = field(init=False, repr=False, compare=False)
    clips: bool = field(init=False, repr=False, compare=False)
    range_of_examples: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check ranges and closed sets."""
        check(self)
        zeroes = self.guard and not self.dp_noise if self.guard_norm == "auto" else self.guard_norm in ("zero", "both")
        object.__setattr__(self, "examples", _range(self.guard_examples))
        object.__setattr__(self, "zeroes", zeroes)
        object.__setattr__(self, "clips", self.guard_norm in ("clip", "both"))
        object.__setattr__(self, "range_of_examples", self.guard_examples.strip() not in ("", "auto"))

    @property
    def guards_examples(self) -> bool:
        """Whether nobody may have many more examples than the others."""
        return self.guard and self.guard_examples == "auto"

    def average(self, layout: Layout, *, per_coordinate: bool) -> PartialAverage:
        """What replies are added to."""
        if self.guard_mean == "mean":
            return PartialAverage(layout, per_coordinate=per_coordinate)
        kind = cast(Kind, self.guard_mean)
        return RobustAverage(layout, kind, self.guard_faulty, per_coordinate=per_coordinate)


def _range(text: str) -> tuple[float, float]:
    if text.strip() in ("", "auto"):
        return 0.0, float(MOST_EXAMPLES)
    try:
        least, most = (int(part) for part in text.split(","))
    except ValueError:
        least, most = 0, -1
    if not 1 <= least <= most <= MOST_EXAMPLES:
        raise SettingError("guard-examples", text, _RANGE)
    return float(least), float(most)
