"""The keys of a run configuration: one closed, flat set, with the type and the default of each."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from math import isfinite
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.errors import SettingError
from protocol import Scalar
from strategies import METHODS


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class Keys(BaseModel):
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
    tier_margin: float = Field(0.8, gt=0, le=1)
    tier_patience: int = Field(3, ge=1)
    fleet: str = ""

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
    codec_down: str = "float32"
    slice_at: str = "client"
    quorum: float = Field(0.5, ge=0, le=1)
    deadline: float = Field(3600.0, gt=0)
    over_selection: float = 1.0
    min_nodes: int = Field(2, ge=1)
    node_wait: float = Field(60.0, ge=0)

    guard_norm: str = "off"
    guard_zero_quantile: float = 0.98
    guard_zero_start: float = 10.0
    guard_clip_quantile: float = 0.8
    guard_clip_start: float = 1.0
    guard_examples: str = ""
    guard_mean: str = "mean"
    guard_faulty: int = 1
    min_cover: int = 1
    dp_noise: float = 0.0
    dp_clip: float = 1.0
    dp_delta: float = 1e-5
    dp_epsilon: float = 0.0

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


def method_keys() -> dict[str, tuple[str, str, Scalar]]:
    """Run-config key → (method, option, default) of every method's own settings."""
    return {
        f"{name}-{option}": (name, option, default)
        for name, method in METHODS.items()
        for option, default in method.OPTIONS.items()
    }


def defaults() -> dict[str, Scalar]:
    """Every key with its default; what pyproject.toml must list."""
    common = Keys.model_validate({}).model_dump(by_alias=True)
    return {**common, **{key: default for key, (_, _, default) in method_keys().items()}}


def checked(given: Mapping[str, Scalar]) -> Keys:
    """Check names and types of the keys that do not belong to a method.

    Raises:
        SettingError: an unknown key, or a value of the wrong type or out of range.
    """
    try:
        # TOML has whole numbers where a fraction is meant; nothing else is converted.
        kinds = {_kebab(name): field.annotation for name, field in Keys.model_fields.items()}
        typed = {key: float(v) if kinds.get(key) is float and type(v) is int else v for key, v in given.items()}
        return Keys.model_validate(typed)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            known = list(defaults())
            close = get_close_matches(key, known, 1)
            hint = f"(did you mean {close[0]!r}?) " if close else ""
            raise SettingError(key, given[key], f"{hint}one of the keys {', '.join(known)}") from None
        raise SettingError(key, given[key], first["msg"].removeprefix("Input should be ")) from None


def option(key: str, value: object, default: Scalar) -> Scalar:
    """Check the type of a method's own setting.

    Raises:
        SettingError: another type than the default's, or not finite.
    """
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        raise SettingError(key, value, f"a {type(default).__name__}, such as {default!r}")
    if isinstance(value, float) and not isfinite(value):
        raise SettingError(key, value, "a finite number")
    return value
