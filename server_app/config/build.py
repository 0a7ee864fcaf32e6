"""What the keys mean: the strategy's settings and the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Any

from data import DataSettings, InputFacts, inspect
from models.adapters.adapter import Adapter, read_adapter
from models.algebra.rates import FULL, ascending
from models.errors import SettingError
from models.networks.complete import completed
from models.networks.registry import NETWORKS
from models.networks.spec import NetworkSpec
from models.settings import WHOLE, Scalar, declared, read
from protocol import Work
from protocol.codecs import CodecSettings
from protocol.requests import WORK_RANGES
from server_app.config.sections import Adapters, Aggregation, Down, Model, Rounds, Selection, Tiers, Training
from strategies import FlowerStrategy, Preferences, Schedule, Settings, parse_proportions, parse_ranks, parse_tiers
from strategies.aggregation import aggregation_named
from strategies.clustering.options import ClusterOptions
from strategies.robustness.options import GuardOptions
from strategies.secure.options import SecureOptions
from strategies.selection import selector
from strategies.settings import AggregationRules, RoundRules, TierRules
from strategies.tiers.tier import cuts_base
from strategies.virtual.devices import read_fleet


def _numbers(key: str, text: str, most: int = int(WHOLE.most)) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        raise SettingError(key, text, 'whole numbers such as "64, 128"') from None
    if not all(1 <= number <= most for number in numbers):
        raise SettingError(key, text, f"whole numbers of at least 1 and at most {most}")
    return numbers


def _alpha(told: str, likes: Preferences) -> float:
    """Strength of FedDyn's regulariser."""
    if told == "auto":
        return likes.dynamic_alpha
    try:
        alpha = float(told)
    except ValueError:
        alpha = -1.0
    if not 0 <= alpha < inf:  # nor is nan
        raise SettingError("dynamic-alpha", told, '"auto", or 0 (off) or more in quotes, such as "0.1"')
    return alpha


def _least_nodes(told: int, clients: int) -> int:
    """How many nodes a run needs to start."""
    if told > clients:
        raise SettingError("min-nodes", told, f"at most num-clients ({clients}), or 0 for two, or the only one")
    return told or min(2, clients)


def _check_cover(settings: Settings) -> None:
    """Refuse guards that would keep every coordinate as it is, in every round."""
    guard, asked = settings.guard, settings.replies
    wanted = 2 * guard.guard_faulty + 1
    if guard.guard_mean != "mean" and wanted > asked:
        allowed = f"mean where {asked} replies make a round: others need 2 guard-faulty + 1 = {wanted} of them"
        raise SettingError("guard-mean", guard.guard_mean, allowed)
    if guard.min_cover > asked:
        raise SettingError("min-cover", guard.min_cover, f"1 to {asked}, the number of replies that make a round")


def _taken(base: type, section: object) -> dict[str, Any]:
    """The fields that a section has from one that it extends."""
    return {one.field: getattr(section, one.field) for one in declared(base)}


def adapter_in(values: Mapping[str, Scalar]) -> Adapter | None:
    """What is trained beside a frozen base, if not everything is.

    Raises:
        SettingError: names the key.
    """
    told = read(Adapters, values)
    return read_adapter(
        told.adapter,
        told.adapter_alpha,
        told.adapter_targets,
        told.adapter_dropout,
        precision=told.base_precision,
        cut=cuts_base(read(Tiers, values).tiers),
    )


def build_settings(values: Mapping[str, Scalar], method: type[FlowerStrategy]) -> Settings:
    """Everything that a strategy is told beside its own options.

    Args:
        values: every key with its value, of the right type.
        method: the strategy's class.

    Raises:
        SettingError: names the key.
    """
    tiering, rounds, training = read(Tiers, values), read(Rounds, values), read(Training, values)
    counted, clients = read(Aggregation, values), int(values["num-clients"])
    adapter = adapter_in(values)
    tiers = parse_tiers(tiering.tiers) if adapter is None else parse_ranks(tiering.tiers, adapter.rank)
    schedule = Schedule(
        learning_rate=training.learning_rate,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        clip_norm=training.clip_norm,
        kind=training.learning_rate_schedule,
        milestones=_numbers("learning-rate-milestones", training.learning_rate_milestones),
        decay=training.learning_rate_decay,
        rounds=rounds.num_server_rounds,
    )
    work = Work(
        local_epochs=training.local_epochs,
        batch_size=training.batch_size,
        mixed_precision=training.mixed_precision,
        threads=training.threads,
        device=training.device,
        local_steps=training.local_steps,
        train_as=training.train_as,
    )
    codec = read(CodecSettings, values)
    settings = Settings(
        **_taken(TierRules, tiering),
        **_taken(RoundRules, rounds),
        **_taken(AggregationRules, counted),
        seed=int(values["seed"]),
        tiers=tiers,
        tier_proportions=parse_proportions(tiering.tier_proportions, tiers),
        fleet=read_fleet(tiering.simulated_devices),
        nodes=clients,
        closed=True,
        min_nodes=_least_nodes(rounds.min_nodes, clients),
        selector=selector(read(Selection, values).selection, values),
        schedule=schedule,
        work=work,
        tier_steps=_numbers("tier-steps", training.tier_steps, WORK_RANGES["local_steps"][1]),
        codec=codec,
        codec_down=replace(codec, name=read(Down, values).codec_down),  # another name, the same further settings
        aggregation=aggregation_named(counted.aggregation, counted.aggregation_q),
        dynamic_alpha=_alpha(counted.dynamic_alpha, method.PREFERENCES),
        clustering=read(ClusterOptions, values),
        guard=read(GuardOptions, values),
        secure=read(SecureOptions, values),
    )
    _check_cover(settings)
    return settings


def build_network(
    model: Model,
    data: DataSettings,
    settings: Settings,
    method: type[FlowerStrategy],
    options: tuple[tuple[str, Scalar], ...] = (),
    *,
    facts: InputFacts | None = None,
    adapter: Adapter | None = None,
) -> NetworkSpec:
    """The network that the keys describe, before the method adapts it; `options` are its own, if it is not built in.

    Classes and inputs are those of the facts; without them, of the data.

    Raises:
        SettingError: names the key.
    """
    likes = method.PREFERENCES
    norm = likes.norm if model.norm == "auto" else model.norm
    if model.norm == "auto" and norm not in NETWORKS[model.model].norms:
        norm = NETWORKS[model.model].norms[0]
    task = inspect(data, facts)
    named = any(one.isalpha() for one in model.blocks)  # modules after which a network can end
    rates = tuple(ascending({tier.rate for tier in settings.tiers} | {FULL}))
    if norm != "batch-per-width" or not method.WIDTHS:
        rates = (FULL,)
    return completed(
        NetworkSpec(
            model.model,
            task.input_shape,
            task.classes,
            widths=_numbers("widths", model.widths),
            blocks=() if named else _numbers("blocks", model.blocks),
            ends=tuple(one.strip() for one in model.blocks.split(",")) if named else (),
            norm=norm,
            scaler=likes.scaler if model.scaler == "auto" else model.scaler == "on",
            rates=rates,
            vocabulary=task.vocabulary,
            task=task.kind,
            exits=model.exits,
            heads=model.heads,
            whole_heads=model.whole_heads,
            tied=model.tied,
            pooler=model.pooler,
            options=options,
            adapter=adapter,
        )
    )
