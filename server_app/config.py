"""The run configuration: one closed set of flat keys, checked once, at the door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data import DataSettings, inspect, load, partition
from models.errors import SettingError
from models.network import NETWORKS, NetworkSpec, completed
from models.norm import NORMS
from models.plans import FULL
from protocol import Scalar, Work
from server_app.run_folder import RunFolder
from strategies import METHODS, PartialStrategy, Schedule, Settings, parse_proportions, parse_tiers
from strategies.selection import SELECTORS

# A resumed run may differ in these from the run it continues; in nothing else.
FREE = frozenset({
    "num-server-rounds", "run-dir", "resume", "data-root", "node-wait", "deadline", "checkpoint-every",
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

    dataset: str = "digits"
    data_root: str = ""
    partition: str = "iid"
    num_clients: int = Field(20, ge=1)
    dirichlet_alpha: float = 0.5
    labels_per_client: int = 2
    image_size: int = 32
    augment: str = "none"
    local_test_fraction: float = 0.1

    tiers: str = "a:1, b:1/2, c:1/4, d:1/8, e:1/16"
    tier_proportions: str = ""
    tier_assignment: str = "fixed"

    num_server_rounds: int = Field(20, ge=1)
    fraction_train: float = Field(1.0, gt=0, le=1)
    fraction_evaluate: float = Field(0.0, ge=0, le=1)
    selection: str = "uniform"
    aggregation: str = "method"
    codec: str = "float32"
    slice_at: str = "client"
    quorum: float = Field(0.5, ge=0, le=1)
    deadline: float = Field(3600.0, gt=0)
    min_nodes: int = Field(2, ge=1)
    node_wait: float = Field(60.0, ge=0)

    local_epochs: int = Field(3, ge=1)
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

    seed: int = Field(1, ge=0)
    evaluate_every: int = Field(1, ge=1)
    checkpoint_every: int = Field(1, ge=1)
    run_dir: str = ""
    resume: str = ""


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
    settings = _settings(keys)
    if keys.fraction_evaluate and not keys.local_test_fraction:
        raise SettingError("fraction-evaluate", keys.fraction_evaluate, "0 where local-test-fraction is 0")
    network = _network(keys, data, settings, method)
    if check_files:
        partition(load(data).train_pixels.labels.numpy(), data)
    config = RunConfig(
        flat, method, options, network, data, settings, keys.num_server_rounds, keys.evaluate_every,
        keys.checkpoint_every, keys.run_dir, keys.resume,
    )  # fmt: skip
    try:
        config.strategy()
    except SettingError as error:
        if error.key in options:  # a strategy does not know its name here
            raise SettingError(f"{keys.method}-{error.key}", error.value, error.allowed) from None
        raise
    except ValueError as error:  # a plan that leaves a layer empty
        raise SettingError("tiers", keys.tiers, f"rates that every layer can be cut at ({error})") from None
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


def _settings(keys: _Keys) -> Settings:
    if keys.selection not in SELECTORS:
        raise SettingError("selection", keys.selection, SELECTORS)
    tiers = parse_tiers(keys.tiers)
    schedule = Schedule(
        keys.learning_rate, keys.momentum, keys.weight_decay, keys.clip_norm, keys.learning_rate_schedule,
        _numbers("learning-rate-milestones", keys.learning_rate_milestones), keys.learning_rate_decay,
        keys.num_server_rounds,
    )  # fmt: skip
    work = Work(keys.local_epochs, keys.batch_size, keys.mixed_precision, keys.threads, keys.device)
    return Settings(
        seed=keys.seed, tiers=tiers, tier_proportions=parse_proportions(keys.tier_proportions, tiers),
        tier_assignment=keys.tier_assignment, nodes=keys.num_clients, min_nodes=min(keys.min_nodes, keys.num_clients),
        node_wait=keys.node_wait, fraction_train=keys.fraction_train, fraction_evaluate=keys.fraction_evaluate,
        quorum=keys.quorum, deadline=keys.deadline, selector=SELECTORS[keys.selection](), schedule=schedule, work=work,
        slice_at=keys.slice_at, codec=keys.codec, aggregation=keys.aggregation,
    )  # fmt: skip


def _network(keys: _Keys, data: DataSettings, settings: Settings, method: type[PartialStrategy]) -> NetworkSpec:
    likes = method.PREFERENCES
    norm = likes.norm if keys.norm == "auto" else keys.norm
    if norm not in NORMS:
        raise SettingError("norm", keys.norm, ["auto", *NORMS])
    if keys.model not in NETWORKS:
        raise SettingError("model", keys.model, NETWORKS)
    classes, shape = inspect(data)
    rates = tuple(sorted({tier.rate for tier in settings.tiers} | {FULL}))
    return completed(
        NetworkSpec(
            keys.model, shape, classes, _numbers("widths", keys.widths), _numbers("blocks", keys.blocks), norm,
            likes.scaler if keys.scaler == "auto" else keys.scaler == "on",
            rates if norm == "batch-per-width" else (FULL,),
        )
    )  # fmt: skip
