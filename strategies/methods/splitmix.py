"""Split-Mix (Hong, Wang, Wang, Zhou; ICLR 2022): many narrow nets in place of one wide one.

The global network is K = 1/atom independent nets, each with atom·n units in every layer, a stem, norms and a classifier
of its own (§4.1). A device of rate r trains int(r/atom) of them (Algorithm 2): the first is the next one of
a shuffled round-robin that all devices share, so that no net is left out for long; the others are drawn from the rest
without replacement. The server averages every net by itself over those who trained it, weighted by examples; a net that
nobody trained stays as it is. A device of rate r then uses the mean of the logits of the first int(r/atom) nets.

K nets have about 1/K of the parameters of one K times as wide, so a tier's parameters are not those of other methods.
The released code (illidanlab/SplitMix, commit fa163f7) finds the number of nets in floats, which gives 2 for int(0.6 /
0.2); here rates are fractions, and it is 3. It rounds atom·n down, which leaves units out where the atom does not
divide a layer; here that is refused. Where classes are divided by device its loss masks the classes that are absent
from the batch (`loss`). It also divides activations by the atom in training and scales the initial weights accordingly,
unless it keeps running statistics; here neither is done: every norm but "none" takes the scale out again.

Adversarial training and dual norms (§4.3) are settings of the run, for every method: `adversarial`, `dual-norm`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil

from models.algebra.plans import Plan
from models.algebra.rates import single
from models.errors import SettingError
from models.networks.build import layout
from models.networks.complete import completed
from models.networks.registry import NETWORKS
from models.networks.spec import NetworkSpec
from models.randomness import generator
from models.settings import Names, Setting, Text
from models.variants.base_nets import divisors, nets_of, widths_of
from protocol import Objective, Scalar
from strategies.context import RoundContext
from strategies.exchange.assignment import Participant
from strategies.flower_adapter import FlowerStrategy
from strategies.method import Values
from strategies.settings import Settings
from strategies.tiers.tier import Tier


class SplitMix(FlowerStrategy):
    """As many of the nets as a tier can carry.

    Options: `atom` ("auto"): width of one net as a share of the whole, one divided by a whole number, such as "1/8";
    "auto" is the widest that divides every layer and that the smallest tier can carry, with which the paper's tiers of
    1 to 1/8 have its 1/8. `loss` ("plain"): "masked" sets the logits of classes to 0 that are absent from the batch.

    Equation: net b becomes Σ nₖ·θₖ / Σ nₖ over the devices that trained it; a device of rate r trains ⌊r·K⌋ of the
    K nets and predicts with (1/m)·Σ f_b(x) over the first m = ⌊r·K⌋.

    Traps: K nets have about 1/K of the parameters of one K times as wide, and take as many forward passes as there
    are nets.
    """

    OPTIONS = {
        "atom": Setting(
            "auto",
            'width of one net as a share of the whole (`"1/8"` in the paper); `auto` is the widest that the smallest'
            " tier can carry. It must divide every layer's units (of attention, those of a head)",
            Text('"auto", or 1 divided by a whole number, such as "1/8"'),
        ),
        "loss": Setting(
            "plain",
            "cross entropy: `plain`, or `masked`, with logits at 0 of classes that are absent from the batch, as the"
            " released code has it where classes are divided by device",
            Names(("plain", "masked")),
        ),
    }
    BY_EXAMPLES = True
    PER_WIDTH = True
    WIDTHS = False
    ONE_RATE = "are numbers of whole nets"

    @classmethod
    def adapted(cls, network: NetworkSpec, settings: Settings, options: Mapping[str, Scalar]) -> NetworkSpec:
        """Many narrow nets.

        Raises:
            SettingError: an atom that does not divide 1 or a layer, or that a tier cannot carry; a network whose widths
                are its own.
        """
        if network.bases:
            return network
        atom, whole = str(options["atom"]), completed(network)
        smallest = min(settings.tiers, key=lambda tier: single(tier.rate))
        if not whole.widths:
            return cls._of_factory(whole, atom, smallest)
        # Every net has all heads of attention, each narrower: what is divided is the coordinates of a head.
        divided = layout(replace(whole, whole_heads=False))
        enough = [count for count in divisors(divided) if single(smallest.rate) * count >= 1]
        count = next(iter(enough), divisors(divided)[-1]) if atom == "auto" else nets_of(atom)
        if single(smallest.rate) * count < 1:
            allowed = f"rates of at least one net, 1/{count} of the width ({smallest.name!r} has {smallest.rate})"
            raise SettingError("tiers", ", ".join(map(str, settings.tiers)), allowed)
        if count > min(whole.widths):
            allowed = f"at least 1/{min(whole.widths)}, for layers of {', '.join(map(str, whole.widths))} units"
            raise SettingError("atom", atom, allowed)
        if count not in divisors(divided):
            axis = next(axis for axis in widths_of(divided) if axis.size % count)
            fit = ", ".join(str(Fraction(1, count)) for count in divisors(divided))
            raise SettingError("atom", atom, f"one of {fit}, which divide every layer ({axis.name!r} has {axis.size})")
        return replace(whole, widths=tuple(width // count for width in whole.widths), bases=count)

    @classmethod
    def _of_factory(cls, whole: NetworkSpec, atom: str, smallest: Tier) -> NetworkSpec:
        """Many networks of a factory that can be asked for narrower ones; how it rounds units is its own affair."""
        count = ceil(1 / single(smallest.rate)) if atom == "auto" else nets_of(atom)
        if single(smallest.rate) * count < 1:
            allowed = f"at least {smallest.rate}, what tier {smallest.name!r} can carry"
            raise SettingError("atom", atom, allowed)
        narrower = NETWORKS[whole.name].narrower
        narrow = None if narrower is None else narrower(whole, count)
        if narrow is None:
            allowed = f"a network whose widths can be set, or whose factory has `width` (a multiple of {count}) or"
            raise SettingError("model", whole.name, f"{allowed} `width_mult`, for {cls.__name__}")
        return replace(completed(replace(narrow, fingerprint="")), bases=count)

    def initial_values(self) -> Values:
        """How many devices have taken a net from the round-robin."""
        return {"turns": 0}

    def plan_round(
        self, context: RoundContext, values: Values, participants: Sequence[Participant]
    ) -> tuple[list[Plan], Values]:
        """The next net of the round-robin for each device, and random others."""
        plans, turns = [], int(values["turns"])
        for turn, one in enumerate(participants, start=turns):
            first = _turn(context, turn)
            others = [base for base in range(context.network.bases) if base != first]
            draws = generator(context.settings.seed, one.round_number, one.node.id, "bases")
            count = self.carried(context, one.tier) - 1
            more = draws.choice(others, count, replace=False).tolist() if others else []
            plans.append(Plan(bases=tuple(sorted([first, *more]))))
        return plans, {"turns": turns + len(plans)}

    def kept_plan(self, context: RoundContext, tier: Tier) -> Plan:
        """The first nets."""
        return Plan(bases=tuple(range(self.carried(context, tier))))

    def can_hold(self, context: RoundContext, tier: Tier, wanted: Tier) -> bool:
        """Tiers differ in the number of nets only."""
        return self.carried(context, tier) >= self.carried(context, wanted)

    def objective(self, context: RoundContext, tier: Tier) -> Objective:
        """Cross entropy of every net, plain or masked."""
        del context, tier
        return Objective("batch-masked-cross-entropy" if self.options["loss"] == "masked" else "cross-entropy")

    def carried(self, context: RoundContext, tier: Tier) -> int:
        """Number of nets that a tier can carry."""
        return int(single(tier.rate) * context.network.bases)


def _turn(context: RoundContext, turn: int) -> int:
    """The net whose turn it is, counted from 0; every cycle has an order of its own."""
    cycle, position = divmod(turn, context.network.bases)
    draws = generator(context.settings.seed, cycle, "server", "order of bases")
    return int(draws.permutation(context.network.bases)[position])
