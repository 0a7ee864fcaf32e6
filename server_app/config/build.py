"""What the keys mean: the strategy's settings and the network."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from data import DataSettings, inspect
from models.algebra.plans import FULL
from models.errors import SettingError
from models.networks.complete import completed
from models.networks.registry import NETWORKS
from models.networks.spec import NetworkSpec
from models.norms.layers import NORMS
from protocol import Work
from protocol.codecs import CodecSettings
from server_app.config.schema import Keys
from strategies import PartialStrategy, Preferences, Schedule, Settings, parse_proportions, parse_tiers
from strategies.aggregation import aggregation_named
from strategies.clustering.options import ClusterOptions
from strategies.robustness.options import GuardOptions
from strategies.selection import SelectionOptions, selector
from strategies.settings import DOWNLINK
from strategies.virtual.devices import read_fleet


def _numbers(key: str, text: str, least: int = 1) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        raise SettingError(key, text, 'whole numbers such as "64, 128"') from None
    if any(number < least for number in numbers):
        raise SettingError(key, text, f"whole numbers of at least {least}")
    return numbers


def _alpha(keys: Keys, likes: Preferences) -> float:
    """Strength of FedDyn's regulariser."""
    if keys.dynamic_alpha == "auto":
        return likes.dynamic_alpha
    try:
        alpha = float(keys.dynamic_alpha)
    except ValueError:
        alpha = -1.0
    if not 0 <= alpha < inf:  # nor is nan
        raise SettingError("dynamic-alpha", keys.dynamic_alpha, '"auto", or 0 (off) or more in quotes, such as "0.1"')
    return alpha


def _downlink(name: str, codec: CodecSettings) -> CodecSettings:
    """The codec of the way down: another name, the same further settings."""
    if name not in DOWNLINK:
        raise SettingError("codec-down", name, DOWNLINK)
    return replace(codec, name=name)


def settings_of(keys: Keys, method: type[PartialStrategy]) -> Settings:
    """Everything that a strategy is told beside its own options.

    Raises:
        SettingError: names the key.
    """
    chosen = selector(keys.selection, keys.options(SelectionOptions))
    tiers = parse_tiers(keys.tiers)
    schedule = Schedule(
        learning_rate=keys.learning_rate,
        momentum=keys.momentum,
        weight_decay=keys.weight_decay,
        clip_norm=keys.clip_norm,
        kind=keys.learning_rate_schedule,
        milestones=_numbers("learning-rate-milestones", keys.learning_rate_milestones),
        decay=keys.learning_rate_decay,
        rounds=keys.num_server_rounds,
    )
    codec = CodecSettings(
        keys.codec,
        levels=keys.codec_levels,
        norm=keys.codec_norm,
        scale=keys.codec_scale,
        block=keys.codec_block,
        entropy=keys.codec_entropy,
        share=keys.codec_share,
        small=keys.codec_small,
    )
    work = Work(
        local_epochs=keys.local_epochs,
        batch_size=keys.batch_size,
        mixed_precision=keys.mixed_precision,
        threads=keys.threads,
        device=keys.device,
        local_steps=keys.local_steps,
    )
    return Settings(
        seed=keys.seed,
        tiers=tiers,
        tier_proportions=parse_proportions(keys.tier_proportions, tiers),
        tier_assignment=keys.tier_assignment,
        tier_margin=keys.tier_margin,
        tier_patience=keys.tier_patience,
        fleet=read_fleet(keys.fleet),
        nodes=keys.num_clients,
        min_nodes=min(keys.min_nodes, keys.num_clients),
        node_wait=keys.node_wait,
        fraction_train=keys.fraction_train,
        fraction_evaluate=keys.fraction_evaluate,
        quorum=keys.quorum,
        deadline=keys.deadline,
        selector=chosen,
        schedule=schedule,
        work=work,
        slice_at=keys.slice_at,
        codec=codec,
        codec_down=_downlink(keys.codec_down, codec),
        aggregation=aggregation_named(keys.aggregation, keys.aggregation_q),
        clustering=keys.options(ClusterOptions),
        guard=keys.options(GuardOptions),
        over_selection=keys.over_selection,
        tier_steps=_numbers("tier-steps", keys.tier_steps),
        dynamic_alpha=_alpha(keys, method.PREFERENCES),
        dynamic_scaling=keys.dynamic_scaling,
    )


def network_of(keys: Keys, data: DataSettings, settings: Settings, method: type[PartialStrategy]) -> NetworkSpec:
    """The network that the keys describe, before the method adapts it.

    Raises:
        SettingError: names the key.
    """
    likes = method.PREFERENCES
    norm = likes.norm if keys.norm == "auto" else keys.norm
    if norm not in NORMS:
        raise SettingError("norm", keys.norm, ["auto", *NORMS])
    if keys.norm == "auto" and norm not in NETWORKS[keys.model].norms:
        norm = NETWORKS[keys.model].norms[0]
    task = inspect(data)
    rates = tuple(sorted({tier.rate for tier in settings.tiers} | {FULL}))
    if norm != "batch-per-width" or not method.WIDTHS:
        rates = (FULL,)
    return completed(
        NetworkSpec(
            keys.model,
            task.input_shape,
            task.classes,
            widths=_numbers("widths", keys.widths),
            blocks=_numbers("blocks", keys.blocks),
            norm=norm,
            scaler=likes.scaler if keys.scaler == "auto" else keys.scaler == "on",
            rates=rates,
            vocabulary=task.vocabulary,
            exits=keys.exits,
            heads=keys.heads,
            whole_heads=keys.whole_heads,
            tied=keys.tied,
            pooler=keys.pooler,
        )
    )
