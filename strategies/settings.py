"""What every strategy can be told, beside its own arguments."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import cos, inf, pi

from models.algebra.rates import share_of
from models.errors import SettingError
from models.settings import Names, at_least, between, check, more_than, setting
from protocol import Measurements, Optimiser, Work
from protocol.codecs import CodecSettings
from protocol.codecs.dead_zone import dead_zone
from strategies.aggregation import Aggregation, ByMethod
from strategies.aggregation.feddyn import SCALINGS
from strategies.clustering.options import ClusterOptions
from strategies.robustness.options import GuardOptions
from strategies.secure.options import SecureOptions
from strategies.selection import Selector, Uniform
from strategies.tiers.tier import ASSIGNMENTS, HALVING, Tier
from strategies.virtual.devices import VirtualFleet

SCHEDULES = ("constant", "step", "cosine", "exponential")
SLICING = ("client", "server")
MODES = ("rounds", "buffered")
_BUFFERED = "aggregation-mode = buffered"
_MEASURED = "tier-assignment = measured, node"
_LONGEST_WAIT, _LONG_LAG = 3600.0, 5.0  # seconds, rounds
DOWNLINK = ("float32", "float16", "bfloat16", "qsgd", "topk", "eden")


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


@dataclass(frozen=True, kw_only=True)
class TierRules:
    """Which tier a node is in."""

    tier_assignment: str = setting(
        "fixed",
        "`fixed` draws once in exact proportion; `dynamic` redraws each round; `node` uses the node config's `tier`,"
        " which may be `auto`: that node is measured; `measured`: all are. See [fleet.md](fleet.md)",
        Names(ASSIGNMENTS),
    )
    tier_margin: float = setting(
        0.8, "share of `deadline` that a measured tier may be expected to take", more_than(0, 1), read_by=_MEASURED
    )
    tier_patience: int = setting(
        3,
        "rounds in a row in which the next larger tier must have fitted before a measured device gets it; every miss"
        " doubles it",
        at_least(1),
        read_by=_MEASURED,
    )


@dataclass(frozen=True, kw_only=True)
class RoundRules:
    """Who is asked in a round, what is sent, and when the round ends."""

    fraction_train: float = setting(1.0, "share of the nodes that train each round (rounded up)", more_than(0, 1))
    fraction_evaluate: float = setting(
        0.0,
        "share of the nodes that score their tier's network on their own test examples each round; **fairness is"
        " measured with this only**, for every method. Off by default: it costs a state down for every node that is"
        " asked and a wait for the slowest of them, and tells the server each client's accuracy",
        between(0, 1),
    )
    statistics_nodes: int = setting(
        1000,
        "nodes that are asked for the moments of static batch norm at most, drawn each time where there are more",
        at_least(1),
    )
    slice_at: str = setting(
        "client",
        "`client`: everyone gets the whole state and slices it; `server`: only the part is sent. Same results",
        Names(SLICING),
    )
    over_selection: float = setting(
        1.0,
        "so many times the nodes are asked that `fraction-train` says, such as 1.3; the round ends when as many as it"
        " says have replied, and the others' replies are not used. Who is among the first is a matter of the wall's"
        " clock, so such a run cannot be repeated bit for bit. Not with simulated devices",
        between(1, 10),
    )
    aggregation_mode: str = setting(
        "rounds",
        "`rounds`: the nodes of a round are waited for; `buffered`: `fraction-train` says how many nodes train at a"
        " time, a node that has replied makes room for another one, and a round is `buffer-size` replies, whatever the"
        " state that each began with. Of simulated devices only. See [fleet.md](fleet.md)",
        Names(MODES),
    )
    buffer_size: int = setting(10, "replies that make a round", at_least(1), read_by=_BUFFERED)
    staleness_exponent: float = setting(
        0.5,
        "a: a reply whose state is τ rounds old counts (1 + τ)^-a times; 0.5 is FedBuff's, 0 counts all alike",
        between(0, 4),
        read_by=_BUFFERED,
    )
    quorum: float = setting(
        0.5,
        "share of the nodes that must reply, without those asked beyond need, else the round is abandoned",
        between(0, 1),
    )
    deadline: float = setting(1800.0, "the longest that a round waits for replies, seconds", more_than(0))
    deadline_factor: float = setting(
        3.0,
        "so many times as long as the slowest reply in its tiers' last five rounds took a round waits, but a minute at"
        " least and `deadline` at most; a node that was silent is asked less and less often; 0: always `deadline`."
        " Not with simulated devices, whose time is virtual",
        at_least(0),
    )
    node_wait: float = setting(
        60.0,
        "seconds to wait for nodes, at the start and when fewer than `min-nodes` are left before a round",
        at_least(0),
    )


@dataclass(frozen=True, kw_only=True)
class AggregationRules:
    """What becomes of replies, beside the rule itself."""

    dynamic_by_examples: bool = setting(
        False,
        "whether a device's α is divided by its examples over their mean, as in FedDyn's released code; else one α for"
        " all, as in the paper and in DepthFL's code",
        read_by="dynamic-alpha above 0",
    )
    dynamic_scaling: str = setting(
        "all",
        "what FedDyn's h is scaled by: `all` nodes, as in the paper, or the `holders` of a coordinate",
        Names(SCALINGS),
        read_by="dynamic-alpha above 0",
    )


@dataclass(frozen=True, kw_only=True)
class Settings(TierRules, RoundRules, AggregationRules):
    """Settings that do not depend on the method.

    Attributes:
        seed: seed of every draw.
        tiers: classes of devices, widest first.
        tier_proportions: share of the nodes in each; () is equal shares.
        tier_assignment: see `strategies.tiers.tier.Assignment`.
        tier_margin, tier_patience: of measured tiers, see `strategies.tiers.adaptive.Rule`.
        fleet: virtual devices whose time counts in place of the wall's; None for real ones.
        nodes: number of nodes the run expects.
        closed: whether no more than these take part; a configuration says so, who writes Python need not count.
        min_nodes: fewer than this and the run does not start.
        node_wait: seconds to wait for nodes.
        fraction_train, fraction_evaluate: share of the nodes that train and that evaluate on their own data.
        statistics_nodes: how many nodes are asked for moments of static batch norm at most.
        quorum: share of the selected nodes whose replies a round needs; below it the round is abandoned.
        aggregation_mode, buffer_size, staleness_exponent: see `strategies.round.buffer`.
        deadline, deadline_factor: how long a round waits for replies, see `strategies.nodes.patience`.
        selector: who takes part.
        schedule: the clients' optimiser by round.
        work: how clients compute.
        tier_steps: local steps by tier, widest first, in place of `work.local_steps`; () is the same for everybody.
        slice_at: "client" sends the whole state, "server" only the part.
        codec: how differences are encoded.
        codec_down: how the state is, as a difference against the client's last one; float32 sends it whole.
        dynamic_alpha: strength of FedDyn's regulariser; 0 is none.
        dynamic_by_examples: whether it is weaker on devices of more examples.
        dynamic_scaling: one of `strategies.aggregation.feddyn.SCALINGS`.
        aggregation: what replies count.
        clustering: whether there are several global states, and who trains which.
        guard: limits of what one reply, or too few of them, can do.
        secure: whether the server learns sums only.
        facts: of the task, as requests carry them; "" sends none.
        metric: what devices say of their own test examples besides loss and accuracy; "" is nothing.
        over_selection: so many times the nodes are asked that a round needs; it ends when these have replied.
    """

    seed: int = 1
    tiers: tuple[Tier, ...] = HALVING
    tier_proportions: tuple[Fraction, ...] = ()
    fleet: VirtualFleet | None = None
    nodes: int = 2
    closed: bool = False
    min_nodes: int = 2
    selector: Selector = field(default_factory=Uniform)
    schedule: Schedule = Schedule()
    work: Work = Work()
    tier_steps: tuple[int, ...] = ()
    codec: CodecSettings = CodecSettings()
    codec_down: CodecSettings = CodecSettings()
    dynamic_alpha: float = 0.0
    aggregation: Aggregation = ByMethod()
    clustering: ClusterOptions = ClusterOptions()
    guard: GuardOptions = GuardOptions()
    secure: SecureOptions = SecureOptions()
    facts: str = ""
    metric: str = ""

    def __post_init__(self) -> None:
        """Check what has a closed set or a range.

        Raises:
            SettingError: names the key, the value and what is allowed.
        """
        check(self)
        self._check_downlink()
        if not 0 <= self.dynamic_alpha < inf:
            raise SettingError("dynamic-alpha", self.dynamic_alpha, "0 (off) or more, and finite")
        if not self.tiers:
            raise SettingError("tiers", self.tiers, "at least one tier")
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
        omega = dead_zone(down.bits).noise
        if down.name == "eden" and omega > _LONG_LAG:
            lag = f"about {omega:.0f} rounds"
            found.append(f'codec-down = "eden": with so few bits, clients are behind the state by {lag}')
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
    def trained_at_most(self) -> int:
        """How many nodes train in a round, without those asked beyond need; of buffered ones, at a time."""
        return max(1, share_of(self.fraction_train, self.nodes))

    @property
    def buffered(self) -> bool:
        """Whether rounds do not wait."""
        return self.aggregation_mode == "buffered"

    @property
    def replies(self) -> int:
        """How many replies a round can have, without those asked beyond need."""
        return self.buffer_size if self.buffered else self.trained_at_most

    @property
    def wait(self) -> float:
        """Wall seconds to wait for replies; virtual devices may need more of them than of their own."""
        return self.deadline if self.fleet is None else max(self.deadline, _LONGEST_WAIT)

    @property
    def proportions(self) -> tuple[Fraction, ...]:
        """Share of the nodes in each tier, summing to 1."""
        return self.tier_proportions or tuple(Fraction(1, len(self.tiers)) for _ in self.tiers)
