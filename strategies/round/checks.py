"""What cannot be is found before anything starts: settings, method and network that do not go together."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from models.errors import SettingError, refuse
from models.networks.build import submodel
from models.networks.complete import check_precision
from strategies.aggregation import ByMethod, Unweighted, name_of
from strategies.context import RoundContext
from strategies.method import Method
from strategies.robustness.privacy import WHY_TOLD, affordable, epsilon
from strategies.round.buffer_checks import check_buffer
from strategies.round.parts import kept_part
from strategies.round.secure_checks import check_secure
from strategies.selection import Uniform
from strategies.settings import Settings

WHY = "with dp-noise, because the sum's sensitivity is bounded only if weights and denominators depend on nobody's data"


def check(method: Method, context: RoundContext) -> None:
    """Check a run.

    Args:
        method: what it trains by.
        context: of its first round.

    Raises:
        SettingError: names the key, the value and what is allowed.
        ValueError: a tier whose part leaves a layer empty.
    """
    settings, norm = context.settings, context.network.norm
    rows = ["label-rows"] * method.needs_labels() + ["token-rows"] * method.needs_tokens()
    check_privacy(settings, by_examples=method.BY_EXAMPLES, rows=rows, norm=norm)
    if norm == "batch-per-width" and not method.PER_WIDTH:
        allowed = f"a norm without statistics per width: the units of a width change in {type(method).__name__}"
        raise SettingError("norm", norm, allowed)
    shares = zip(settings.tiers, settings.proportions, strict=True)
    if settings.tier_assignment != "node" and not any(
        share and method.eligible(context, tier) for tier, share in shares
    ):
        tiers = ", ".join(f"{tier.name}:{tier.rate}" for tier in settings.tiers)
        raise SettingError("tiers", tiers, "a tier that may take part")
    adapter, tiers = context.network.adapter, ", ".join(map(str, settings.tiers))
    if adapter is not None and adapter.cut and (method.ONE_RATE or method.KEEPS_FACTORS or not method.WIDTHS):
        raise SettingError("tiers", tiers, f"tiers with the whole base for {type(method).__name__}: no base=1/2")
    for tier in settings.tiers:
        check_precision(context.network, tier.precision)
        submodel(context.network, kept_part(method, context, tier))
    if method.KEEPS_FACTORS:
        check_factors(method, context)
    method.check(context)
    check_secure(method, context)
    check_buffer(method, context)


def check_factors(method: Method, context: RoundContext) -> None:
    """Refuse what leaves no factors of single devices, or means nothing where these are not averaged.

    Raises:
        SettingError: names the key, the value and the reason.
    """
    name, settings, guard = type(method).__name__, context.settings, context.settings.guard
    secure, mean, alpha = settings.secure.secure_aggregation, guard.guard_mean, settings.dynamic_alpha
    unseen = f"false for {name}, which needs the factors of every device: of a sum nobody sees them"
    refuse(
        [
            ("secure-aggregation", secure, not secure, unseen),
            ("guard-mean", mean, mean == "mean", f"mean for {name}: of products there is no other"),
            ("min-cover", guard.min_cover, guard.min_cover <= 1, f"1 for {name}: directions have no holders"),
            ("dp-noise", guard.dp_noise, not guard.dp_noise, f"0 for {name}: its bound is one on sums of differences"),
            ("dynamic-alpha", alpha, not alpha, f"0 for {name}, whose pairs turn"),
        ]
    )


def check_privacy(settings: Settings, *, by_examples: bool, rows: Sequence[str], norm: str) -> None:
    """Refuse what the guarantee would not hold for.

    Args:
        settings: of the run; nothing is refused without noise.
        by_examples: whether the method weighs replies by examples.
        rows: options by which it leaves rows alone of labels or tokens that a device does not have.
        norm: of the network.

    Raises:
        SettingError: names the key, the value and the reason.
    """
    options = settings.guard
    if not options.dp_noise:
        return
    if find_spec("dp_accounting") is None:
        allowed = "0 without the package that flwr's accountant needs: pip install 'dp-accounting>=0.6,<0.7'"
        raise SettingError("dp-noise", options.dp_noise, allowed)
    rule = settings.aggregation
    if not isinstance(rule, ByMethod | Unweighted) or (by_examples and not isinstance(rule, Unweighted)):
        raise SettingError("aggregation", name_of(rule), f"uniform {WHY}")
    if rows:
        raise SettingError(rows[0], True, f"false {WHY}")
    if not isinstance(settings.selector, Uniform):
        raise SettingError("selection", type(settings.selector).__name__, f"uniform {WHY}")
    if settings.tier_assignment == "measured":
        raise SettingError("tier-assignment", "measured", f"fixed, dynamic or node {WHY_TOLD}")
    clusters, alpha, over = settings.clustering.clustering, settings.dynamic_alpha, settings.over_selection
    bound, mean, backs = options.guard_norm, options.guard_mean, options.guard_rollbacks
    why = "a run that goes back leaves out a node that it chooses by differences without noise"
    refuse(
        [
            ("clustering", clusters, clusters == "none", f"none {WHY}"),
            ("dynamic-alpha", alpha, not alpha, f"0 {WHY}"),
            ("guard-mean", mean, mean == "mean", f"mean {WHY}"),
            ("guard-norm", bound, bound in ("auto", "off"), f"auto or off (dp-clip is the bound) {WHY}"),
            ("over-selection", over, over == 1, f"1 {WHY}"),
            ("guard-rollbacks", backs, not backs, f"0 with dp-noise: {why}"),
        ]
    )
    if norm == "batch-per-width":
        raise SettingError("norm", norm, "another norm with dp-noise: noise makes running variances negative")
    rounds, limit = settings.schedule.rounds, options.dp_epsilon
    if limit and epsilon(options, settings.nodes, rounds) > limit:
        fit = affordable(options, settings.nodes, rounds)
        raise SettingError("num-server-rounds", rounds, f"at most {fit} with dp-epsilon = {limit:g}, or more dp-noise")
