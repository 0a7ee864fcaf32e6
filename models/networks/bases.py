"""Where the base of an adapted network comes from: a file, or the seed of the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


class BaseFile(Mapping[str, Tensor]):
    """The base of an adapted network in a file: a tensor is read, as float32, whenever it is asked for.

    A file that lacks what all names of the network begin with, such as "classifier.", will do; what else is in it is
    passed over.

    Args:
        place: as `base_file` takes it.
        spec: of the network.

    Raises:
        ValueError: the file cannot be read, or lacks a tensor of the right shape, or, when a tensor is read, has
            changed since, or has values that are not finite; one line.
    """

    def __init__(self, place: Path, spec: NetworkSpec) -> None:
        wanted = layout(spec).frozen
        self._file = base_file(place)
        self._names = _names_in(self._file, wanted, outer(layout(without_adapter(spec)).tensors))
        self._stamp = _stamp(self._file)
        if missing := [name for name in wanted if name not in self._names]:
            raise ValueError(f"{self._file} lacks {missing[0]!r} of the right shape")

    def __getitem__(self, name: str) -> Tensor:
        if _stamp(self._file) != self._stamp:
            raise ValueError(f"{self._file} has changed while it was in use")
        return _read(self._file, {name: self._names[name]})[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def base_in(place: Path, spec: NetworkSpec) -> dict[str, Tensor]:
    """Read the base of an adapted network.

    Raises:
        ValueError: as `BaseFile`.
    """
    return dict(BaseFile(place, spec))


def trained_in(place: Path, spec: NetworkSpec) -> dict[str, Tensor]:
    """Read what a path has of an adapted network's state: all of it, or what the network without adapter has too.

    That is the head as far as it fits, and weights that products are added to.

    Raises:
        ValueError: a file cannot be read, or is of another adapter; one line.
    """
    alone, declared = layout(without_adapter(spec)), layout(spec)
    if is_peft(place):
        weights = {name: declared.tensors[name] for name in declared.beside.values()}
        beside = _tensors_in(base_file(place), weights, outer(alone.tensors)) if weights else {}
        return state_in_peft(place, spec) | beside
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
    return _read(file, _names_in(file, wanted, start))


def _names_in(file: Path, wanted: Mapping[str, TensorLayout], start: str) -> dict[str, str]:
    """What tensors are called in a file that has them, of these shapes, with or without steps of the start."""
    steps = start.split(".")[:-1]
    starts = ["".join(f"{step}." for step in steps[:count]) for count in range(len(steps) + 1)]
    found = {}
    try:
        with safe_open(file, framework="pt") as opened:
            there = set(opened.keys())
            for name, tensor in wanted.items():
                saved = next((one for one in map(name.removeprefix, starts) if one in there), None)
                if saved is not None and tuple(opened.get_slice(saved).get_shape()) == tensor.shape:
                    found[name] = saved
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: {' '.join(str(error).split())}") from None
    return found


def _read(file: Path, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors of a file, as float32, by what they are called in it."""
    found = {}
    try:
        with safe_open(file, framework="pt") as opened:
            for name, saved in names.items():
                value = opened.get_tensor(saved).to(torch.float32).contiguous()
                if not bool(torch.isfinite(value).all()):
                    raise ValueError(f"{file}: {saved!r} has values that are not finite")
                found[name] = value
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: {' '.join(str(error).split())}") from None
    return found


def _stamp(file: Path) -> tuple[int, int]:
    """When a file was written last, and its bytes."""
    try:
        found = file.stat()
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from None
    return found.st_mtime_ns, found.st_size
