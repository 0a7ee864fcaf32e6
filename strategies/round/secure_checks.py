"""What cannot be with secure aggregation, found before anything starts: whatever needs a reply by itself."""

from __future__ import annotations

from models.algebra.submodel import Submodel
from models.errors import SettingError, refuse
from protocol import Hello
from strategies.aggregation import ByExamples, ByMethod, Unweighted, name_of
from strategies.context import RoundContext
from strategies.exchange.assignment import Participant, TrainAssignment
from strategies.exchange.node import Node
from strategies.exchange.update import ClientUpdate
from strategies.method import Method
from strategies.round.assignments import parts_of_round
from strategies.round.parts import kept_part
from strategies.selection import BySize, BySizeWithReplacement, Uniform
from strategies.tiers.tier import Tier, apportion

_ON = "with secure-aggregation"
_TRIED = 5  # made-up nodes of a tier, by which is seen whether they train the same part


def check_secure(method: Method, context: RoundContext) -> None:
    """Check a run; without secure aggregation nothing is refused.

    Args:
        method: what it trains by.
        context: of its first round.

    Raises:
        SettingError: names the key, the value and the reason.
    """
    settings = context.settings
    if not settings.secure.secure_aggregation:
        return
    _check_settings(context)
    name, least = type(method).__name__, settings.secure.secure_threshold
    if method.needs_labels():
        why = "which rows a device trains would show which labels it has, and rows have other holders than their tensor"
        raise SettingError("label-rows", True, f"false {_ON}: {why}")
    if method.needs_tokens():
        why = "which rows a device trains would show which tokens it has, and rows have other holders than their tensor"
        raise SettingError("token-rows", True, f"false {_ON}: {why}")
    if method.PER_COORDINATE:
        raise SettingError("method", name, f"one whose parts have no element masks {_ON}, which sums whole parts")
    for tier in settings.tiers:
        if method.eligible(context, tier) and not same_part(method, context, tier):
            allowed = f"one whose nodes of a tier train the same part in a round {_ON}: a sum is over such nodes"
            raise SettingError("method", name, f"{allowed} (tier {tier.name!r} has others)")
        if method.eligible(context, tier) and not weighs_before(method, context, tier):
            raise SettingError("method", name, f"one that weighs by what is known before training {_ON}")
    if settings.tier_assignment != "fixed":
        return
    counts = apportion(settings.proportions, settings.nodes)
    for tier, count in zip(settings.tiers, counts, strict=True):
        alike = sum(n for other, n in zip(settings.tiers, counts, strict=True) if shared(method, context, tier, other))
        if method.eligible(context, tier) and count > 0 and alike < least:
            allowed = f"at most the {alike} nodes that train the part of tier {tier.name!r}"
            raise SettingError("secure-threshold", least, allowed)


def _check_settings(context: RoundContext) -> None:
    """Refuse the settings that look at single replies."""
    settings, guard, rule = context.settings, context.settings.guard, context.settings.aggregation
    least, clusters = settings.secure.secure_threshold, settings.clustering.clustering
    plain, sizes = isinstance(rule, ByMethod | ByExamples | Unweighted), (Uniform, BySize, BySizeWithReplacement)
    rows = (
        ("codec", settings.codec.name, settings.codec.name == "float32", "float32: masked numbers cannot be decoded"),
        ("aggregation", name_of(rule), plain, "method, examples or uniform: others weigh by what a reply says"),
        ("clustering", clusters, clusters == "none", "none: clusters look at single replies"),
        ("guard-mean", guard.guard_mean, guard.guard_mean == "mean", "mean: others need every reply"),
        ("guard-norm", guard.guard_norm, guard.guard_norm in ("auto", "off"), "auto or off: secure-clip is the bound"),
        ("dp-noise", guard.dp_noise, not guard.dp_noise, "0: its bound is one on single differences"),
        ("over-selection", settings.over_selection, settings.over_selection == 1, "1: a sum is over all of its group"),
        ("selection", type(settings.selector).__name__, isinstance(settings.selector, sizes), "uniform or by size"),
        ("min-cover", guard.min_cover, guard.min_cover >= least, f"{least} (secure-threshold) or more"),
    )
    for key, value, fits, allowed in rows:
        head, colon, why = allowed.partition(":")
        refuse([(key, value, fits, f"{head} {_ON}{colon}{why}")])


def same_part(method: Method, context: RoundContext, tier: Tier) -> bool:
    """Whether the nodes of a tier train one part."""
    return len(set(_plans(method, context, [tier] * _TRIED))) == 1


def weighs_before(method: Method, context: RoundContext, tier: Tier) -> bool:
    """Whether a method can say what a difference weighs, more than nothing, by the node's examples alone."""
    node = Node(0, Hello(node=0, examples=1))
    plan = kept_part(method, context, tier)
    asked = TrainAssignment(node=node, tier=tier.name, plan=plan, part=Submodel({}), nonce="")
    try:
        numerator, _ = method.weigh(context, asked, ClientUpdate(metrics={"num-examples": 1.0}))
    except Exception:  # a method of somebody else's may want anything of a reply
        return False
    return numerator > 0


def shared(method: Method, context: RoundContext, tier: Tier, other: Tier) -> bool:
    """Whether two tiers train one part, such as all of FedAvg's."""
    return tier == other or len(set(_plans(method, context, [tier, other]))) == 1


def _plans(method: Method, context: RoundContext, tiers: list[Tier]) -> list[object]:
    nodes = [
        Participant(node=Node(i, Hello(node=i, examples=1)), tier=tier, round_number=context.round_number)
        for i, tier in enumerate(tiers)
    ]
    plans, _ = parts_of_round(method, context, method.initial_values(), nodes)
    return list(plans)
