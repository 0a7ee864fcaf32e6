"""An adapted network's state as peft keeps it: `adapter_model.safetensors` and `adapter_config.json` in a folder.

Source: peft 0.21, `peft.utils.save_and_load` (names: "base_model.model.", the layer, ".lora_A.weight"; of layers that
are trained whole the name alone) and `peft.tuners.lora.LoraConfig`. A layer's product there counts lora_alpha/r, with
the rank r of the file; so the part of a lower rank r has α·r/R for its lora_alpha, or α where a part has α/r in front
(`Adapter.sketched`). A convolution's factors are convolutions there: A (r, n, kernel) and B (m, r, 1, 1). A has the
layer's kernel, stride and padding, but zeros around its inputs and no dilation whatever the layer has, so networks with
pairs beside other ones have no such form (`not_in_peft`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.adapters.adapter import PAIR
from models.adapters.low_rank import A, B, beyond_zeros, is_transposed, paths_of_pairs
from models.algebra.axes import heads
from models.networks.build import blank, layout, without_adapter
from models.networks.spec import NetworkSpec

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_START = "base_model.model."
_MOST = 1 << 20  # bytes of a configuration


def outer(names: Iterable[str]) -> str:
    """The modules that all tensors lie in, such as "classifier." where a network of transformers was wrapped."""
    paths = [name.split(".")[:-1] for name in names]
    alike = takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    return "".join(f"{parts[0]}." for parts in alike)


def wrapper(names: Iterable[str]) -> str:
    """The first of these modules: what a module of transformers was put in to give logits."""
    first, dot, _ = outer(names).partition(".")
    return first + dot


def names_in_peft(spec: NetworkSpec) -> dict[str, str]:
    """Name in the state of an adapted network → name in peft's file."""
    alone, adapted = layout(without_adapter(spec)), layout(spec)
    skipped = len(wrapper(alone.tensors))
    found = {name: f"{_START}{name[skipped:]}" for name in heads(alone)}
    found |= {name: f"{_START}{name[skipped:]}.weight" for pair in adapted.pairs for name in (pair.a, pair.b)}
    return {name: found[name] for name in adapted.tensors if name in found}


def not_in_peft(spec: NetworkSpec) -> str:
    """Why peft would compute something else from these pairs, in words; "" where it would not."""
    with torch.device("meta"):
        network = blank(spec)
    found = ((path, beyond_zeros(network.get_submodule(path))) for path in paths_of_pairs(network))
    return next((f"{path!r} has {what}, which peft's pairs beside it have not" for path, what in found if what), "")


def as_in_peft(spec: NetworkSpec, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state of an adapted network, or of its part of a lower rank, in the shapes that peft has; names stay."""
    found = dict(state)
    with torch.device("meta"):
        network = blank(spec)
    for path in paths_of_pairs(network):
        shape = network.get_buffer(f"{path}.weight").shape
        if len(shape) > 2:
            a, b = f"{path}.{A}", f"{path}.{B}"
            found[a] = state[a].view(-1, *shape[1:])
            found[b] = state[b].view(*state[b].shape, *[1] * (len(shape) - 2))
    return found


def peft_config(spec: NetworkSpec, rank: int, base: str) -> dict[str, Any]:
    """What `adapter_config.json` says of an adapter, or of its part of a lower rank.

    Args:
        spec: of the adapted network.
        rank: of the part.
        base: where the frozen weights are.
    """
    assert spec.adapter is not None
    alone = layout(without_adapter(spec))
    skipped = len(wrapper(alone.tensors))
    paths, transposed = _layers(spec)
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": spec.adapter.factor_of(rank) * rank,
        "lora_dropout": spec.adapter.dropout,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "target_modules": [path[skipped:] for path in paths],
        "modules_to_save": sorted({name[skipped:].rpartition(".")[0] for name in heads(alone)}),
    }


def _layers(spec: NetworkSpec) -> tuple[list[str], bool]:
    """The layers that have a pair, and whether the weights of some are stored as (inputs, outputs)."""
    with torch.device("meta"):
        network = blank(spec)
    paths = paths_of_pairs(network)
    return paths, any(is_transposed(network.get_submodule(path)) for path in paths)


def is_peft(folder: Path) -> bool:
    """Whether a folder is one that peft wrote."""
    return (folder / CONFIG).is_file()


def read_config(folder: Path) -> Mapping[str, Any]:
    """`adapter_config.json`.

    Raises:
        ValueError: it cannot be read, or is of no LoRA; one line.
    """
    try:
        with (folder / CONFIG).open("rb") as stream:
            found = json.loads(stream.read(_MOST))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{folder / CONFIG}: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict) or found.get("peft_type") != "LORA":
        raise ValueError(f"{folder / CONFIG} is of no LoRA")
    return found


def _factor_in(folder: Path, config: Mapping[str, Any]) -> float:
    """lora_alpha/r of a configuration; peft's defaults where it does not say.

    Raises:
        ValueError: they are no rank and no factor.
    """
    rank, alpha = config.get("r", 8), config.get("lora_alpha", 8)
    whole, number = type(rank) is int and rank > 0, type(alpha) in (int, float)
    with suppress(OverflowError):  # of a whole number that no float is
        factor = alpha / rank if whole and number else math.nan
        if math.isfinite(factor) and factor > 0:
            return factor
    raise ValueError(
        f"{folder / CONFIG}: r = {_short(rank)}, lora_alpha = {_short(alpha)}: allowed are numbers above 0"
    )


def _short(value: object) -> str:
    return json.dumps(value)[:20]


def state_in_peft(folder: Path, spec: NetworkSpec) -> dict[str, Tensor]:
    """Read a state of an adapted network from a folder that peft wrote; B is scaled if its factor is another.

    Raises:
        ValueError: the file cannot be read, lacks a tensor, or has another rank, other layers, or a form of LoRA that
            the network has not, or the network has convolutions that peft would treat otherwise; one line.
    """
    assert spec.adapter is not None
    if why := not_in_peft(spec):
        raise ValueError(f"{folder} cannot be read: {why}")
    if spec.adapter.form != PAIR:
        raise ValueError(f"{folder} has pairs of factors, of which this run trains none")
    config = read_config(folder)
    for key in ("use_dora", "use_rslora", "fan_in_fan_out", "rank_pattern", "alpha_pattern"):
        if config.get(key) and not (key == "fan_in_fan_out" and _layers(spec)[1]):
            raise ValueError(f"{folder / CONFIG}: {key} is not supported")
    factor = _factor_in(folder, config) / (spec.adapter.factor if spec.adapter.rank else 1.0)
    names, found, declared = names_in_peft(spec), {}, layout(spec)
    scaled = {pair.b for pair in declared.pairs}
    theirs = as_in_peft(spec, {name: torch.empty(one.shape, device="meta") for name, one in declared.tensors.items()})
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as opened:
            there = set(opened.keys())
            if unknown := there - set(names.values()):
                raise ValueError(f"{folder / WEIGHTS} has {min(unknown)!r}, which this network has not")
            for name, other in names.items():
                if other not in there:
                    raise ValueError(f"{folder / WEIGHTS} lacks {other!r}")
                value, shape = opened.get_tensor(other).to(torch.float32), tuple(theirs[name].shape)
                value = value * factor if name in scaled and factor != 1 else value
                if tuple(value.shape) != shape or not bool(torch.isfinite(value).all()):
                    raise ValueError(f"{folder / WEIGHTS}: {other!r} is {tuple(value.shape)}, not {shape} and finite")
                found[name] = value.view(declared.tensors[name].shape)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{folder / WEIGHTS}: {' '.join(str(error).split())}") from None
    return found
