"""What every strategy can be told, beside its own arguments."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import cos, inf, pi

from models.errors import SettingError
from protocol import Measurements, Optimiser, Work
from protocol.codecs import CodecSettings
from strategies.aggregation import Aggregation, ByMethod
from strategies.aggregation.feddyn import SCALINGS
from strategies.clustering.options import ClusterOptions
from strategies.robustness.options import GuardOptions
from strategies.selection import Selector, Uniform
from strategies.tiers.tier import ASSIGNMENTS, HALVING, Tier
from strategies.virtual.devices import VirtualFleet

SCHEDULES = ("constant", "step", "cosine", "exponential")
SLICING = ("client", "server")
_LONGEST_WAIT = 3600.0  # seconds
_LONG_LAG = 5.0  # rounds
DOWNLINK = ("float32", "float16", "bfloat16", "qsgd", "topk")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The clients' optimiser by round.

    Attributes:
        learning_rate: at round 1.
        momentum, weight_decay, clip_norm: see `protocol.Optimiser`.
        kind: "constant"; "step" multiplies by `decay` at every milestone; "exponential" multiplies by `decay` every
            round; "cosine" falls to 0 over `rounds`.
        milestones: rounds after which "step" decays, ascending.
        decay: factor of "step" and "exponential".
        rounds: length of the run, for "cosine".
    """

    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_norm: float = 1.0
    kind: str = "constant"
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    rounds: int = 1

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise SettingError("learning-rate-schedule", self.kind, SCHEDULES)

    def optimiser(self, round_number: int) -> Optimiser:
        """The optimiser of a 1-based round."""
        done = round_number - 1
        factor = 1.0
        if self.kind == "step":
            factor = self.decay ** sum(done >= milestone for milestone in self.milestones)
        elif self.kind == "exponential":
            factor = self.decay**done
        elif self.kind == "cosine":
            factor = 0.5 * (1 + cos(pi * min(1.0, done / self.rounds)))
        return Optimiser(
            self.learning_rate * factor, self.momentum, weight_decay=self.weight_decay, clip_norm=self.clip_norm
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings that do not depend on the method.

    Attributes:
        seed: seed of every draw.
        tiers: classes of devices, widest first.
        tier_proportions: share of the nodes in each; () is equal shares.
        tier_assignment: see `strategies.tiers.tier.Assignment`.
        tier_margin, tier_patience: of measured tiers, see `strategies.tiers.adaptive.Rule`.
        fleet: virtual devices whose time counts in place of the wall's; None for real ones.
        nodes: number of nodes the run expects.
        min_nodes: fewer than this and the run does not start.
        node_wait: seconds to wait for nodes.
        fraction_train, fraction_evaluate: share of the nodes that train and that evaluate on their own data.
        quorum: share of the selected nodes whose replies a round needs; below it the round is abandoned.
        deadline: seconds a round waits for replies.
        selector: who takes part.
        schedule: the clients' optimiser by round.
        work: how clients compute.
        tier_steps: local steps by tier, widest first, in place of `work.local_steps`; () is the same for everybody.
        slice_at: "client" sends the whole state, "server" only the part.
        codec: how differences are encoded.
        codec_down: how the state is, as a difference against the client's last one; float32 sends it whole.
        dynamic_alpha: strength of FedDyn's regulariser; 0 is none.
        dynamic_scaling: one of `strategies.aggregation.feddyn.SCALINGS`.
        aggregation: what replies count.
        clustering: whether there are several global states, and who trains which.
        guard: limits of what one reply, or too few of them, can do.
        over_selection: so many times the nodes are asked that a round needs; it ends when these have replied.
    """

    seed: int = 1
    tiers: tuple[Tier, ...] = HALVING
    tier_proportions: tuple[Fraction, ...] = ()
    tier_assignment: str = "fixed"
    tier_margin: float = 0.8
    tier_patience: int = 3
    fleet: VirtualFleet | None = None
    nodes: int = 2
    min_nodes: int = 2
    node_wait: float = 60.0
    fraction_train: float = 1.0
    fraction_evaluate: float = 0.0
    quorum: float = 0.5
    deadline: float = 3600.0
    selector: Selector = field(default_factory=Uniform)
    schedule: Schedule = Schedule()
    work: Work = Work()
    tier_steps: tuple[int, ...] = ()
    slice_at: str = "client"
    codec: CodecSettings = CodecSettings()
    codec_down: CodecSettings = CodecSettings()
    dynamic_alpha: float = 0.0
    dynamic_scaling: str = "all"
    aggregation: Aggregation = ByMethod()
    clustering: ClusterOptions = ClusterOptions()
    guard: GuardOptions = GuardOptions()
    over_selection: float = 1.0

    def __post_init__(self) -> None:
        """Check what has a closed set or a range.

        Raises:
            SettingError: names the key, the value and what is allowed.
        """
        for key, value, allowed in (
            ("tier-assignment", self.tier_assignment, ASSIGNMENTS),
            ("slice-at", self.slice_at, SLICING),
            ("dynamic-scaling", self.dynamic_scaling, SCALINGS),
        ):
            if value not in allowed:
                raise SettingError(key, value, allowed)
        self._check_downlink()
        if not 0 <= self.dynamic_alpha < inf:
            raise SettingError("dynamic-alpha", self.dynamic_alpha, "0 (off) or more, and finite")
        if not self.tiers:
            raise SettingError("tiers", self.tiers, "at least one tier")
        if not 0 < self.tier_margin <= 1:
            raise SettingError("tier-margin", self.tier_margin, "more than 0 and at most 1")
        if self.tier_patience < 1:
            raise SettingError("tier-patience", self.tier_patience, "a whole number of at least 1")
        if not 0 < self.fraction_train <= 1:
            raise SettingError("fraction-train", self.fraction_train, "more than 0 and at most 1")
        for key, share in (("fraction-evaluate", self.fraction_evaluate), ("quorum", self.quorum)):
            if not 0 <= share <= 1:
                raise SettingError(key, share, "0 to 1")
        if not 1 <= self.over_selection <= 10:
            raise SettingError("over-selection", self.over_selection, "1 to 10")
        if self.clustering.clustering == "ifca" and self.clustering.ifca_clusters > self.nodes:
            most = f"1 to {self.nodes}: no more clusters than nodes"
            raise SettingError("ifca-clusters", self.clustering.ifca_clusters, most)
        if self.guard.guard_mean != "mean" and self.clustering.clustering != "none":
            raise SettingError("guard-mean", self.guard.guard_mean, "mean where there are clusters")
        steps = self.tier_steps
        if steps and (len(steps) != len(self.tiers) or min(steps) < 1):
            wanted = f'"", or {len(self.tiers)} whole numbers of at least 1 (one per tier, widest first)'
            raise SettingError("tier-steps", ", ".join(map(str, steps)), wanted)
        self.aggregation.check(self.work, self.schedule.optimiser(1), steps)

    def _check_downlink(self) -> None:
        name = self.codec_down.name
        if name not in DOWNLINK:
            raise SettingError("codec-down", name, DOWNLINK)
        if name != "float32" and (self.slice_at == "server" or self.clustering.clustering != "none"):
            raise SettingError("codec-down", name, "float32 where slice-at is server, or where there are clusters")

    def doubts(self) -> list[str]:
        """What works, but not as one might expect; one line each."""
        found = []
        if self.clustering.clustering == "cfl" and self.codec.name in ("topk", "ef21"):
            why = {
                "topk": "updates of unlike coordinates look orthogonal, so with a small share nothing is ever cut",
                "ef21": "updates are compared as the server has them, which follow the clients' by some rounds",
            }
            found.append(f'clustering = "cfl" with codec = "{self.codec.name}": {why[self.codec.name]}')
        down = self.codec_down
        omega = min(down.block / (4 * down.levels**2), down.block**0.5 / down.levels)
        if down.name == "qsgd" and (down.scale != "block" or omega > _LONG_LAG):
            lag = f"about {omega:.0f} rounds" if down.scale == "block" else "the more rounds the larger tensors are"
            found.append(f'codec-down = "qsgd": with so few levels for a norm, clients are behind the state by {lag}')
        return found

    def work_of(self, tier: Tier) -> Work:
        """How the nodes of a tier train."""
        steps = dict(zip(self.tiers, self.tier_steps, strict=False)).get(tier, self.work.local_steps)
        codec, compared = self.codec, self.clustering.clustering == "cfl"
        norm = (codec.lossy and self.aggregation.USES_NORM) or (codec.noisy and compared)
        measure = Measurements(squared_loss=self.selector.squares, norm=norm)
        work = replace(self.work, local_steps=steps, measure=measure)
        return self.aggregation.work(work)

    @property
    def wait(self) -> float:
        """Wall seconds to wait for replies; virtual devices may need more of them than of their own."""
        return self.deadline if self.fleet is None else max(self.deadline, _LONGEST_WAIT)

    @property
    def proportions(self) -> tuple[Fraction, ...]:
        """Share of the nodes in each tier, summing to 1."""
        return self.tier_proportions or tuple(Fraction(1, len(self.tiers)) for _ in self.tiers)
