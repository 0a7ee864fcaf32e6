"""Tensors that a network holds and nobody trains: buffers that are no part of its state.

So a network's state is what is trained, sent, averaged and saved; the rest is used and moved from device to device with
the module and comes from a base, which every process holds once (`models.base_store`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

_MARK = "_flotilla_frozen"  # of a module: names of its own tensors that are frozen
_WRITTEN = "_flotilla_written"  # of a module: those of them that it may write to, such as running statistics


@torch.no_grad()
def freeze(
    network: nn.Module,
    trained: Callable[[str], bool],
    base: Mapping[str, Tensor] | None = None,
    *,
    but: Collection[str] = (),
) -> None:
    """Take everything that is not trained out of a network's state.

    Args:
        network: every tensor of its state that is not trained becomes a buffer beside the state.
        trained: name → whether it is.
        base: the frozen tensors' values by name; weights are not copied, what a layer may write to is. None leaves
            values as they are.
        but: names of those that stay as they are in any case.
    """
    for name, tensor in network.state_dict(keep_vars=True).items():
        if trained(name):
            continue
        path, _, leaf = name.rpartition(".")
        owner = network.get_submodule(path)
        parameter = owner._parameters.pop(leaf, None) is not None
        owner._buffers.pop(leaf, None)
        held = tensor.detach()
        if base is not None and name not in but:
            found = base[name]
            if found.shape != held.shape:
                raise ValueError(f"the base's {name!r} has shape {tuple(found.shape)}, not {tuple(held.shape)}")
            held = (found if parameter else found.clone()).to(held.device)
        hold(owner, leaf, held)
        if not parameter:
            vars(owner).setdefault(_WRITTEN, set()).add(leaf)


def hold(owner: nn.Module, leaf: str, tensor: Tensor) -> None:
    """Give a module a tensor that is no part of its state."""
    owner.register_buffer(leaf, tensor, persistent=False)
    vars(owner).setdefault(_MARK, set()).add(leaf)


def frozen_tensors(network: nn.Module) -> dict[str, Tensor]:
    """The tensors that were frozen, by name."""
    return _marked(network, _MARK)


def written_tensors(network: nn.Module) -> dict[str, Tensor]:
    """The frozen tensors that layers write to while others are trained, such as running statistics, by name."""
    return _marked(network, _WRITTEN)


def _marked(network: nn.Module, mark: str) -> dict[str, Tensor]:
    found = {}
    for path, module in network.named_modules():
        for leaf in sorted(vars(module).get(mark, ())):
            found[f"{path}.{leaf}" if path else leaf] = module._buffers[leaf]
    return {name: tensor for name, tensor in found.items() if tensor is not None}
