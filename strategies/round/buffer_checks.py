"""What cannot be with buffered rounds, found before a run: whatever needs replies to one and the same state."""

from __future__ import annotations

from models.errors import SettingError, refuse
from strategies.context import RoundContext
from strategies.method import Method

_ON = 'with aggregation-mode = "buffered"'


def check_buffer(method: Method, context: RoundContext) -> None:
    """Check a run; with rounds that wait nothing is refused.

    Args:
        method: what it trains by.
        context: of its first round.

    Raises:
        SettingError: names the key, the value and the reason.
    """
    settings, guard = context.settings, context.settings.guard
    if not settings.buffered:
        return
    if settings.fleet is None:
        why = "who replies first is up to the wall's clock elsewhere, and no such run could be repeated or resumed"
        raise SettingError("aggregation-mode", "buffered", f"rounds without simulated-devices: {why}")
    if method.ONE_AGE or method.KEEPS_FACTORS or method.PER_COORDINATE:
        why = method.ONE_AGE or "it wants replies that began with one and the same state"
        raise SettingError("aggregation-mode", "buffered", f"rounds for {type(method).__name__}: {why}")
    size, most = settings.buffer_size, settings.trained_at_most
    clusters, down = settings.clustering.clustering, settings.codec_down.name
    secure = settings.secure.secure_aggregation
    rows = (
        ("buffer-size", size, size <= most, f"1 to {most}, the number of nodes that train at a time"),
        ("over-selection", settings.over_selection, settings.over_selection == 1, f"1 {_ON}, which waits for nobody"),
        ("secure-aggregation", secure, not secure, f"false {_ON}: a sum is over replies to one state"),
        ("dp-noise", guard.dp_noise, not guard.dp_noise, f"0 {_ON}: how old a reply is would depend on who has it"),
        ("guard-mean", guard.guard_mean, guard.guard_mean == "mean", f"mean {_ON}: ages count, and a median has none"),
        ("clustering", clusters, clusters == "none", f"none {_ON}: clusters change while nodes train"),
        (
            "codec-down",
            down,
            down == "float32",
            f"float32 {_ON}: few hold the state of the round before",
        ),
        (
            "dynamic-alpha",
            settings.dynamic_alpha,
            not settings.dynamic_alpha,
            f"0 {_ON}: FedDyn's correction is one of differences to the present state",
        ),
    )
    refuse(rows)
