"""A tier in one safetensors file: the part's tensors, and a header that says what they are.

Tensors have the part's names; moments of static batch norm are "moments" (float64). The header's metadata has the JSON
text "flotilla": format, tier, network, plan, inputs, classes and the reported accuracy.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from data import InputFacts
from flotilla.serving.model import ModelCard, TierModel
from models.algebra.plans import Plan
from models.networks.spec import NetworkSpec
from server_app.folder.tensor_file import serialised, write_hashed
from server_app.folder.tiers_file import FORMAT, KEY, read_described

_MOMENTS = "moments"


def described(card: ModelCard) -> dict[str, Any]:
    """What a file of a tier says of itself, as JSON; nothing of the machine that wrote it."""
    return {
        "format": FORMAT,
        "tier": card.tier,
        "round": card.round,
        "accuracy": card.accuracy,
        "network": json.loads(card.network.to_json()),
        "plan": json.loads(card.plan.to_json()),
        "noise_share": card.noise_share,
        "inputs": json.loads(card.inputs.to_json()),
        "preprocessing": card.inputs.steps(),
    }


def write_tier_file(model: TierModel, file: Path) -> None:
    """Write a tier's network; the file appears whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    state: dict[str, Tensor] = dict(model.network.state_dict())
    moments = model.card.moments
    tensors = state if moments is None else {**state, _MOMENTS: moments}
    temporary = file.with_name(f".{file.name}")
    try:
        told = json.dumps(described(model.card), ensure_ascii=False)
        write_hashed(temporary, serialised(tensors, {KEY: told}))
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def read_tier_file(file: Path) -> tuple[ModelCard, dict[str, Tensor]]:
    """Read what `write_tier_file` wrote.

    Raises:
        OtherFormat: it is of another version.
        ValueError: it is something else, or damaged.
        OSError: it cannot be read.
    """
    told, tensors = read_described(file)
    try:
        accuracy = told["accuracy"]
        card = ModelCard(
            tier=str(told["tier"]),
            network=NetworkSpec.from_json(json.dumps(told["network"])),
            plan=Plan.from_json(json.dumps(told["plan"])),
            noise_share=float(told["noise_share"]),
            inputs=InputFacts.from_json(json.dumps(told["inputs"])),
            round=int(told["round"]),
            accuracy=None if accuracy is None else float(accuracy),
            moments=tensors.pop(_MOMENTS, None),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"damaged ({error!r})") from None
    return card, tensors
