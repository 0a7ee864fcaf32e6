"""The base of a run whose network is frozen in part: found once, and kept in the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from models import base_store
from models.adapters.low_rank import beside_base
from models.algebra.axes import Layout, heads
from models.errors import SettingError
from models.networks.bases import BASE, base_in, drawn_base, trained_in
from models.networks.build import layout
from models.networks.spec import NetworkSpec
from server_app.folder.class_names import Rows, reordered
from server_app.folder.files import sync_folder
from server_app.folder.tensor_file import serialised, write_hashed


@dataclass(frozen=True, kw_only=True)
class AdaptedStart:
    """What a run of an adapted network begins from, beside the base.

    Attributes:
        place: as the run's key says.
        trained: tensors of the state that come from it; the others are drawn.
    """

    place: str
    trained: Mapping[str, Tensor]

    def load_into(self, state: Mapping[str, Tensor]) -> str:
        """Copy the tensors into a state of the network, and say so in one line."""
        for name, tensor in self.trained.items():
            state[name].copy_(tensor)
        drawn = len(state) - len(self.trained)
        return f"starting from {self.place}: the base and {len(self.trained)} tensors to train, {drawn} drawn"


def adapted_start(place: str, spec: NetworkSpec, *, new_heads: bool, classes: Sequence[str] = ()) -> AdaptedStart:
    """Hold what a run starts from against its adapted network.

    Args:
        place: a .safetensors file or a folder, see `models.networks.bases`.
        spec: of the network.
        new_heads: whether heads are drawn anew where there are none of the right shape and the same classes.
        classes: names of the network's, as far as they are known.

    Raises:
        SettingError: (key start) it cannot be read, or is of another network or adapter, or of other classes.
    """
    path = Path(place).expanduser()
    try:
        base_in(path, spec)
        trained = _by_name(path, trained_in(path, spec), layout(spec), classes, new_heads=new_heads)
    except ValueError as error:
        raise SettingError("start", place, f"a file or folder with the base of this network ({error})") from None
    declared = layout(spec)
    beside = beside_base(declared)
    missing = [name for name in declared.tensors if name not in beside and name not in trained]
    if lost := [name for name in missing if name not in heads(declared)]:
        raise SettingError("start", place, f"a file or folder with {lost[0]!r} of the right shape")
    if missing and not new_heads:
        allowed = f"one with {missing[0]!r} of the right shape; start-new-heads = true draws it anew"
        raise SettingError("start", place, allowed)
    return AdaptedStart(place=place, trained=trained)


def _by_name(
    place: Path, trained: Mapping[str, Tensor], declared: Layout, classes: Sequence[str], *, new_heads: bool
) -> dict[str, Tensor]:
    """The tensors, with the rows of heads in the order of this run's classes; without heads of others, if `new_heads`.

    Raises:
        ValueError: its classes are others.
    """
    rows, counting = Rows.of(classes, place), heads(declared)
    if rows.others and not new_heads and counting & set(trained):
        raise ValueError(f"{rows.difference()}; start-new-heads = true draws its head anew")
    return {
        name: reordered(tensor, declared.tensors[name], declared.axes, rows.order) if name in counting else tensor
        for name, tensor in trained.items()
        if name not in counting or not rows.others
    }


def based(network: NetworkSpec, *, seed: int, start: str, resume: Path | None) -> NetworkSpec:
    """A network with the digest of its base, which this process holds from now on.

    Args:
        network: any; one without adapter stays as it is.
        seed: of the run; the base is drawn from it where there is no start.
        start: the run's key.
        resume: folder of the run to go on with; its base is there.

    Raises:
        SettingError: (keys start, resume) the base cannot be read.
    """
    if network.adapter is None:
        return network
    network = replace(network, base="")
    key, place = ("resume", resume / BASE) if resume else ("start", Path(start).expanduser())
    try:
        found = base_in(place, network) if resume or start else drawn_base(network, seed)
    except ValueError as error:
        raise SettingError(key, str(place), f"a file or folder with the base of this network ({error})") from None
    return replace(network, base=base_store.hold(found))


def keep_base(network: NetworkSpec, folder: Path) -> None:
    """Write a network's base into a run folder that has none yet; nothing where the network has no base."""
    target = folder / BASE
    if not network.base or target.exists():
        return
    staged = folder / f".{BASE}"
    write_hashed(staged, serialised(base_store.base(network.base)))
    staged.replace(target)
    sync_folder(folder)


def read_base(network: NetworkSpec, folder: Path) -> None:
    """Hold the base of a finished run's network.

    Raises:
        ValueError: it is missing, or another one.
    """
    if network.base and not base_store.holds(network.base):
        found = base_store.hold(base_in(folder / BASE, replace(network, base="")))
        if found != network.base:
            raise ValueError(f"{BASE} is damaged: its digest is {found[:12]}, the run's is {network.base[:12]}")
