"""The keys of a run configuration: one closed, flat set, with the type and the default of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, fields
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic import Field as Bound

from models.errors import SettingError
from protocol import Scalar
from strategies import METHODS
from strategies.clustering.options import ClusterOptions
from strategies.robustness.options import GuardOptions
from strategies.selection import SelectionOptions

# Settings of a room of their own, whose fields are keys; their ranges are checked there.
OPTIONS = (SelectionOptions, ClusterOptions, GuardOptions)
Options = TypeVar("Options")


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class Keys(BaseModel):
    """The keys that do not belong to a method, with their defaults. What the data room owns is checked there.

    The fields of `OPTIONS` are keys as well; `options` has them.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, alias_generator=_kebab)

    method: str = "heterofl"
    model: str = "cnn"
    widths: str = ""
    blocks: str = ""
    norm: str = "auto"
    scaler: Literal["auto", "on", "off"] = "auto"
    exits: str = "auto"
    heads: int = Bound(4, ge=1)
    whole_heads: bool = False
    tied: bool = False
    pooler: bool = False

    dataset: str = "digits"
    data_root: str = ""
    partition: str = "iid"
    num_clients: int = Bound(20, ge=1)
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
    tier_margin: float = Bound(0.8, gt=0, le=1)
    tier_patience: int = Bound(3, ge=1)
    fleet: str = ""

    num_server_rounds: int = Bound(20, ge=1)
    fraction_train: float = Bound(1.0, gt=0, le=1)
    fraction_evaluate: float = Bound(0.0, ge=0, le=1)
    selection: str = "uniform"
    dynamic_alpha: str = "auto"
    dynamic_scaling: str = "all"
    aggregation: str = "method"
    aggregation_q: float = Bound(1.0, ge=0)
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
    quorum: float = Bound(0.5, ge=0, le=1)
    deadline: float = Bound(3600.0, gt=0)
    over_selection: float = 1.0
    min_nodes: int = Bound(2, ge=1)
    node_wait: float = Bound(60.0, ge=0)

    local_epochs: int = Bound(3, ge=1)
    local_steps: int = Bound(0, ge=0)
    tier_steps: str = ""
    batch_size: int = Bound(16, ge=1)
    learning_rate: float = Bound(0.1, gt=0)
    learning_rate_schedule: str = "cosine"
    learning_rate_milestones: str = ""
    learning_rate_decay: float = Bound(0.1, gt=0, le=1)
    momentum: float = Bound(0.9, ge=0, lt=1)
    weight_decay: float = Bound(5e-4, ge=0)
    clip_norm: float = Bound(1.0, ge=0)
    mixed_precision: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Bound(1, ge=1)

    adversarial: float = Bound(0.0, ge=0, le=1)
    adversarial_epsilon: str = "8/255"
    adversarial_steps: int = Bound(7, ge=1)
    dual_norm: str = "auto"
    robust_mix: float = Bound(0.0, ge=0, le=1)
    evaluate_robust: int = Bound(0, ge=0)

    seed: int = Bound(1, ge=0)
    evaluate_every: int = Bound(1, ge=1)
    checkpoint_every: int = Bound(1, ge=1)
    run_dir: str = ""
    resume: str = ""
    client_state: str = ""

    def options(self, kind: type[Options]) -> Options:
        """Those of the keys that are the fields of one of `OPTIONS`.

        Raises:
            SettingError: as the options do.
        """
        return kind(**{field.name: getattr(self, field.name) for field in _settable(kind)})


def _settable(options: type) -> list[Field[Any]]:
    return [field for field in fields(options) if field.init]


def _keys_of(options: type) -> dict[str, Any]:
    kinds = get_type_hints(options)
    return {field.name: (kinds[field.name], field.default) for field in _settable(options)}


_ALL: type[Keys] = create_model("_ALL", __base__=Keys, **{k: v for kind in OPTIONS for k, v in _keys_of(kind).items()})


def method_keys() -> dict[str, tuple[str, str, Scalar]]:
    """Run-config key → (method, option, default) of every method's own settings."""
    return {
        f"{name}-{option}": (name, option, setting.default)
        for name, method in METHODS.items()
        for option, setting in method.OPTIONS.items()
    }


def defaults() -> dict[str, Scalar]:
    """Every key with its default; what pyproject.toml must list."""
    common = _ALL.model_validate({}).model_dump(by_alias=True)
    return {**common, **{key: default for key, (_, _, default) in method_keys().items()}}


def checked(given: Mapping[str, Scalar]) -> Keys:
    """Check names and types of the keys that do not belong to a method.

    Raises:
        SettingError: an unknown key, or a value of the wrong type or out of range.
    """
    try:
        # TOML has whole numbers where a fraction is meant; nothing else is converted.
        kinds = {_kebab(name): field.annotation for name, field in _ALL.model_fields.items()}
        typed = {key: float(v) if kinds.get(key) is float and type(v) is int else v for key, v in given.items()}
        return _ALL.model_validate(typed)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            known = list(defaults())
            close = get_close_matches(key, known, 1)
            hint = f"(did you mean {close[0]!r}?) " if close else ""
            raise SettingError(key, given[key], f"{hint}one of the keys {', '.join(known)}") from None
        raise SettingError(key, given[key], first["msg"].removeprefix("Input should be ")) from None
