"""The run configuration: one closed set of flat keys, checked once, at the door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data import SOURCES, DataSettings, inspect, shards
from models.errors import SettingError
from models.network import NETWORKS, NetworkSpec, completed
from models.norm import NORMS
from models.plans import FULL
from models.staged import EXITS
from protocol import Scalar, Work
from protocol.codecs import CodecSettings
from server_app.robustness import Robustness, robustness
from server_app.run_folder import RunFolder
from strategies import METHODS, PartialStrategy, Preferences, Schedule, Settings, parse_proportions, parse_tiers
from strategies.aggregation import aggregation_named
from strategies.clustering import ClusterOptions
from strategies.selection import SelectionOptions, selector

# A resumed run may differ in these from the run it continues; in nothing else.
FREE = frozenset({
    "num-server-rounds", "run-dir", "resume", "data-root", "node-wait", "deadline", "checkpoint-every", "client-state",
})  # fmt: skip


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class _Keys(BaseModel):
    """The keys that do not belong to a method, with their defaults. What the data room owns is checked there."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, alias_generator=_kebab)

    method: str = "heterofl"
    model: str = "cnn"
    widths: str = ""
    blocks: str = ""
    norm: str = "auto"
    scaler: Literal["auto", "on", "off"] = "auto"
    exits: str = "auto"
    heads: int = Field(4, ge=1)
    whole_heads: bool = False
    tied: bool = False
    pooler: bool = False

    dataset: str = "digits"
    data_root: str = ""
    partition: str = "iid"
    num_clients: int = Field(20, ge=1)
    dirichlet_alpha: float = 0.5
    labels_per_client: int = 2
    image_size: int = 32
    sequence_length: int = 0
    vocabulary_size: int = 8000
    augment: str = "none"
    local_test_fraction: float = 0.1
    planted: str = ""

    tiers: str = "a:1, b:1/2, c:1/4, d:1/8, e:1/16"
    tier_proportions: str = ""
    tier_assignment: str = "fixed"

    num_server_rounds: int = Field(20, ge=1)
    fraction_train: float = Field(1.0, gt=0, le=1)
    fraction_evaluate: float = Field(0.0, ge=0, le=1)
    selection: str = "uniform"
    selection_candidates: int = 0
    selection_loss: str = "probe"
    selection_batch: int = 64
    selection_compare: str = "tier-rank"
    selection_data_exponent: float = 1.0
    selection_loss_exponent: float = 1.0
    selection_lateness_exponent: float = 2.0
    selection_preferred_seconds: float = 0.0
    divfl_greedy: str = "lazy"
    divfl_sample: int = 0
    divfl_vectors: str = "projected"
    divfl_size: int = 256
    divfl_refresh: str = "updates"
    divfl_weights: str = "gamma"
    oort_exploration: float = 0.9
    oort_exploration_decay: float = 0.95
    oort_exploration_least: float = 0.2
    oort_cutoff: float = 0.7
    oort_clip: float = 0.95
    oort_pacer_percent: float = 30.0
    oort_pacer_rounds: int = 20
    oort_pacer_step: float = 5.0
    dynamic_alpha: str = "auto"
    dynamic_scaling: str = "all"
    aggregation: str = "method"
    aggregation_q: float = Field(1.0, ge=0)
    clustering: str = "none"
    ifca_clusters: int = 2
    ifca_averaging: str = "model"
    ifca_shared: bool = False
    ifca_restarts: int = 0
    ifca_least_share: float = 0.1
    cfl_mean_norm: float = 0.35
    cfl_largest_norm: float = 0.5
    cfl_gamma: float = 0.72
    cfl_linkage: str = "single"
    cfl_first_round: int = 5
    cfl_most_clusters: int = 8
    cfl_sample: int = 65536
    codec: str = "float32"
    codec_levels: int = 7
    codec_norm: str = "l2"
    codec_scale: str = "block"
    codec_block: int = 512
    codec_entropy: str = "fixed"
    codec_share: float = 0.01
    codec_small: int = 1000
    slice_at: str = "client"
    quorum: float = Field(0.5, ge=0, le=1)
    deadline: float = Field(3600.0, gt=0)
    min_nodes: int = Field(2, ge=1)
    node_wait: float = Field(60.0, ge=0)

    local_epochs: int = Field(3, ge=1)
    local_steps: int = Field(0, ge=0)
    tier_steps: str = ""
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(0.1, gt=0)
    learning_rate_schedule: str = "cosine"
    learning_rate_milestones: str = ""
    learning_rate_decay: float = Field(0.1, gt=0, le=1)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    clip_norm: float = Field(1.0, ge=0)
    mixed_precision: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(1, ge=1)

    adversarial: float = Field(0.0, ge=0, le=1)
    adversarial_epsilon: str = "8/255"
    adversarial_steps: int = Field(7, ge=1)
    dual_norm: str = "auto"
    robust_mix: float = Field(0.0, ge=0, le=1)
    evaluate_robust: int = Field(0, ge=0)

    seed: int = Field(1, ge=0)
    evaluate_every: int = Field(1, ge=1)
    checkpoint_every: int = Field(1, ge=1)
    run_dir: str = ""
    resume: str = ""
    client_state: str = ""


@dataclass(frozen=True)
class RunConfig:
    """A checked configuration.

    Attributes:
        flat: every key with its value, as the run folder records it.
        method: the strategy's class.
        options: the method's own settings.
        network: the global network, completed.
        data: data set and partition.
        settings: everything else that a strategy is told.
        rounds: number of the last round.
        evaluate_every, checkpoint_every: in rounds; the last round is always evaluated and saved.
        run_dir, resume: folders as given; "" is unset.
        robust: how adversarial inputs come in.
    """

    flat: dict[str, Scalar]
    method: type[PartialStrategy]
    options: dict[str, Scalar]
    network: NetworkSpec
    data: DataSettings
    settings: Settings
    rounds: int
    evaluate_every: int
    checkpoint_every: int
    run_dir: str
    resume: str
    robust: Robustness

    @property
    def num_clients(self) -> int:
        """Number of clients, and so of nodes that a simulation needs."""
        return self.data.num_clients

    @property
    def folder(self) -> Path:
        """The run folder: of the run to resume, as given, or named after the time, method and data set."""
        if self.resume:
            return Path(self.resume).expanduser().resolve()
        name = f"runs/{datetime.now():%Y%m%d-%H%M%S}-{self.flat['method']}-{self.flat['dataset']}"
        return Path(self.run_dir or name).expanduser().absolute()

    @property
    def free(self) -> frozenset[str]:
        """Keys in which a resumed run may differ from the run that it continues."""
        # A cosine falls over the whole run: another length would be another schedule.
        fixed = {"num-server-rounds"} if self.settings.schedule.kind == "cosine" else set()
        return FREE - fixed

    def strategy(self) -> PartialStrategy:
        """A new strategy of this configuration."""
        return self.method(self.network, self.settings, **self.options)


def method_keys() -> dict[str, tuple[str, str, Scalar]]:
    """Run-config key → (method, option, default) of every method's own settings."""
    return {
        f"{name}-{option}": (name, option, default)
        for name, method in METHODS.items()
        for option, default in method.OPTIONS.items()
    }


def defaults() -> dict[str, Scalar]:
    """Every key with its default; what pyproject.toml must list."""
    common = _Keys.model_validate({}).model_dump(by_alias=True)
    return {**common, **{key: default for key, (_, _, default) in method_keys().items()}}


def resolve(given: Mapping[str, Scalar], *, check_files: bool = True) -> RunConfig:
    """Check a flat configuration; keys that are absent take their default.

    Args:
        given: flat keys as in pyproject's `[tool.flwr.app.config]` and `--run-config`.
        check_files: also read the data set and divide it, and look at the run folder, so that missing data, too many
            clients or a folder in use show now.

    Raises:
        SettingError: names the key, the value and what is allowed.
    """
    own = method_keys()
    keys = _checked({key: value for key, value in given.items() if key not in own})
    if keys.method not in METHODS:
        raise SettingError("method", keys.method, METHODS)
    method = METHODS[keys.method]
    values = {key: _option(key, given.get(key, default), default) for key, (_, _, default) in own.items()}
    options = {option: values[key] for key, (name, option, _) in own.items() if name == keys.method}
    flat: dict[str, Scalar] = {**keys.model_dump(by_alias=True), **values}
    data = DataSettings.from_config(flat)
    robust = robustness(flat, images=SOURCES[data.dataset].images)
    settings = _settings(keys, method)
    settings = replace(settings, work=robust.told(settings.work))
    if keys.fraction_evaluate and not keys.local_test_fraction:
        raise SettingError("fraction-evaluate", keys.fraction_evaluate, "0 where local-test-fraction is 0")
    if check_files:
        shards(data)
    try:
        plain = replace(_network(keys, data, settings, method), dual=robust.dual)
        network = completed(method.adapted(plain, settings, options))
        config = RunConfig(
            flat, method, options, network, data, settings, keys.num_server_rounds, keys.evaluate_every,
            keys.checkpoint_every, keys.run_dir, keys.resume, robust,
        )  # fmt: skip
        config.strategy()
    except SettingError as error:
        if error.key in options:  # a strategy does not know its name here
            raise SettingError(f"{keys.method}-{error.key}", error.value, error.allowed) from None
        raise
    except ValueError as error:  # a plan that leaves a layer empty
        raise SettingError("tiers", keys.tiers, f"rates and depths that the network can be cut at ({error})") from None
    if check_files and config.resume:
        RunFolder(config.folder).check_same(config.flat, config.free)
    elif check_files and config.run_dir:
        RunFolder(config.folder).check_new()
    return config


def _checked(given: Mapping[str, Scalar]) -> _Keys:
    try:
        # TOML has whole numbers where a fraction is meant; nothing else is converted.
        kinds = {_kebab(name): field.annotation for name, field in _Keys.model_fields.items()}
        typed = {key: float(v) if kinds.get(key) is float and type(v) is int else v for key, v in given.items()}
        return _Keys.model_validate(typed)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            known = list(defaults())
            close = get_close_matches(key, known, 1)
            hint = f"(did you mean {close[0]!r}?) " if close else ""
            raise SettingError(key, given[key], f"{hint}one of the keys {', '.join(known)}") from None
        raise SettingError(key, given[key], first["msg"].removeprefix("Input should be ")) from None


def _option(key: str, value: object, default: Scalar) -> Scalar:
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        raise SettingError(key, value, f"a {type(default).__name__}, such as {default!r}")
    if isinstance(value, float) and not isfinite(value):
        raise SettingError(key, value, "a finite number")
    return value


def _numbers(key: str, text: str, least: int = 1) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        raise SettingError(key, text, 'whole numbers such as "64, 128"') from None
    if any(number < least for number in numbers):
        raise SettingError(key, text, f"whole numbers of at least {least}")
    return numbers


def _alpha(keys: _Keys, likes: Preferences) -> float:
    """Strength of FedDyn's regulariser."""
    if keys.dynamic_alpha == "auto":
        return likes.dynamic_alpha
    try:
        return float(keys.dynamic_alpha)
    except ValueError:
        raise SettingError("dynamic-alpha", keys.dynamic_alpha, '"auto" or a number in quotes, such as "0.1"') from None


def _settings(keys: _Keys, method: type[PartialStrategy]) -> Settings:
    chosen = selector(keys.selection, SelectionOptions(**keys.model_dump(include=set(SelectionOptions.__slots__))))
    tiers = parse_tiers(keys.tiers)
    schedule = Schedule(
        keys.learning_rate, keys.momentum, keys.weight_decay, keys.clip_norm, keys.learning_rate_schedule,
        _numbers("learning-rate-milestones", keys.learning_rate_milestones), keys.learning_rate_decay,
        keys.num_server_rounds,
    )  # fmt: skip
    codec = CodecSettings(
        keys.codec, keys.codec_levels, keys.codec_norm, keys.codec_scale, keys.codec_block, keys.codec_entropy,
        keys.codec_share, keys.codec_small,
    )  # fmt: skip
    work = Work(keys.local_epochs, keys.batch_size, keys.mixed_precision, keys.threads, keys.device, keys.local_steps)
    return Settings(
        seed=keys.seed, tiers=tiers, tier_proportions=parse_proportions(keys.tier_proportions, tiers),
        tier_assignment=keys.tier_assignment, nodes=keys.num_clients, min_nodes=min(keys.min_nodes, keys.num_clients),
        node_wait=keys.node_wait, fraction_train=keys.fraction_train, fraction_evaluate=keys.fraction_evaluate,
        quorum=keys.quorum, deadline=keys.deadline, selector=chosen, schedule=schedule, work=work,
        slice_at=keys.slice_at, codec=codec,
        aggregation=aggregation_named(keys.aggregation, keys.aggregation_q),
        clustering=ClusterOptions(**keys.model_dump(include=set(ClusterOptions.__dataclass_fields__) - {"rule"})),
        tier_steps=_numbers("tier-steps", keys.tier_steps),
        dynamic_alpha=_alpha(keys, method.PREFERENCES), dynamic_scaling=keys.dynamic_scaling,
    )  # fmt: skip


def _network(keys: _Keys, data: DataSettings, settings: Settings, method: type[PartialStrategy]) -> NetworkSpec:
    likes = method.PREFERENCES
    norm = likes.norm if keys.norm == "auto" else keys.norm
    if norm not in NORMS:
        raise SettingError("norm", keys.norm, ["auto", *NORMS])
    if keys.model not in NETWORKS:
        raise SettingError("model", keys.model, NETWORKS)
    if keys.norm == "auto" and norm not in NETWORKS[keys.model].norms:
        norm = NETWORKS[keys.model].norms[0]
    task = inspect(data)
    rates = tuple(sorted({tier.rate for tier in settings.tiers} | {FULL}))
    if norm != "batch-per-width" or not method.WIDTHS:
        rates = (FULL,)
    exits = "last" if keys.exits == "auto" else keys.exits  # which a method with exits of its own replaces
    if exits not in EXITS:
        raise SettingError("exits", keys.exits, ["auto", *EXITS])
    return completed(
        NetworkSpec(
            keys.model, task.input_shape, task.classes, _numbers("widths", keys.widths),
            _numbers("blocks", keys.blocks), norm,
            likes.scaler if keys.scaler == "auto" else keys.scaler == "on",
            rates, vocabulary=task.vocabulary, exits=exits, heads=keys.heads, whole_heads=keys.whole_heads,
            tied=keys.tied, pooler=keys.pooler,
        )
    )  # fmt: skip
