"""Where the base of an adapted network comes from: a file, or the seed of the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.adapters.adapter import PAIR
from models.algebra.axes import TensorLayout
from models.networks.build import initial_state, layout, without_adapter
from models.networks.peft_form import is_peft, outer, read_config, state_in_peft
from models.networks.spec import NetworkSpec
from models.randomness import torch_generator

BASE, MODEL = "base.safetensors", "model.safetensors"  # in a folder: what is frozen; all, or what is trained


def first_state(spec: NetworkSpec, seed: int) -> dict[str, Tensor]:
    """What a run of this seed draws for a network before anything is trained or read."""
    return initial_state(spec, torch_generator(seed, 0, "server", "initial state"))


def drawn_base(spec: NetworkSpec, seed: int) -> dict[str, Tensor]:
    """The base of an adapted network that begins from nothing."""
    state = first_state(without_adapter(spec), seed)
    return {name: state[name] for name in layout(spec).frozen}


def base_file(place: Path) -> Path:
    """The file that has the base which a path means.

    Args:
        place: a file; or the folder of a run, of a network that transformers saved, or of an adapter that peft saved
            and that names such a folder, if that is on this machine.

    Raises:
        ValueError: peft's configuration cannot be read.
    """
    if not place.is_dir():
        return place
    known = [place / name for name in (BASE, MODEL) if (place / name).is_file()]
    if not known and is_peft(place):
        named = place / str(read_config(place).get("base_model_name_or_path") or "")
        known = [one for one in (named / MODEL, named) if one.is_file()]
    return known[0] if known else place / MODEL


def base_in(place: Path, spec: NetworkSpec) -> dict[str, Tensor]:
    """Read the base of an adapted network; what else is in the file is passed over.

    A file that lacks what all names of the network begin with, such as "classifier.", will do.

    Raises:
        ValueError: the file cannot be read, or lacks a tensor, or has one of another shape or of values that are not
            finite; one line.
    """
    file, wanted = base_file(place), layout(spec).frozen
    found = _tensors_in(file, wanted, outer(layout(without_adapter(spec)).tensors))
    if missing := [name for name in wanted if name not in found]:
        raise ValueError(f"{file} lacks {missing[0]!r} of the right shape")
    return found


def trained_in(place: Path, spec: NetworkSpec) -> dict[str, Tensor]:
    """Read what a path has of an adapted network's state: all of it, or what the network without adapter has too.

    That is the head as far as it fits, and weights that products are added to.

    Raises:
        ValueError: a file cannot be read, or is of another adapter; one line.
    """
    alone, declared = layout(without_adapter(spec)), layout(spec)
    if is_peft(place):
        weights = {name: declared.tensors[name] for name in declared.beside.values()}
        return state_in_peft(place, spec) | _tensors_in(base_file(place), weights, outer(alone.tensors))
    if place.is_dir() and (place / BASE).is_file():
        if spec.adapter is not None and spec.adapter.form != PAIR:
            raise ValueError(f"{place} is of another adapter: between factors that are drawn from another seed")
        found = _tensors_in(place / MODEL, declared.tensors, "")
        if len(found) < len(declared.tensors):
            raise ValueError(f"{place / MODEL} is of another adapter")
        return found
    wanted = {name: tensor for name, tensor in alone.tensors.items() if name in declared.tensors}
    return _tensors_in(base_file(place), wanted, outer(alone.tensors))


def _tensors_in(file: Path, wanted: Mapping[str, TensorLayout], start: str) -> dict[str, Tensor]:
    """Tensors of a file, as float32, that have the names, with or without their start, and the shapes."""
    found = {}
    try:
        with safe_open(file, framework="pt") as opened:
            there = set(opened.keys())
            for name, tensor in wanted.items():
                saved = next((one for one in _spellings(name, start) if one in there), None)
                if saved is None or tuple(opened.get_slice(saved).get_shape()) != tensor.shape:
                    continue
                value = opened.get_tensor(saved).to(torch.float32).contiguous()
                if not bool(torch.isfinite(value).all()):
                    raise ValueError(f"{file}: {saved!r} has values that are not finite")
                found[name] = value
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: {' '.join(str(error).split())}") from None
    return found


def _spellings(name: str, start: str) -> Iterable[str]:
    return (name, name.removeprefix(start))
