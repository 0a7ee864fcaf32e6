"""Tensors that a device trains and that are no part of a network's state: nobody else gets them as they are.

They are buffers beside the state. Every time that a part is loaded they have their first values again; who trains adds
them to the network's parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

_MARK = "_flotilla_own"  # of a module: its own tensors' first values, by name


def own(module: nn.Module, leaf: str, first: Tensor) -> None:
    """Give a module a tensor that is trained beside the state."""
    vars(module).setdefault(_MARK, {})[leaf] = first
    module.register_buffer(leaf, first.clone(), persistent=False)


def own_tensors(network: nn.Module) -> dict[str, Tensor]:
    """The tensors that are trained beside the state, by name."""
    return {f"{path}.{leaf}" if path else leaf: held for path, _, leaf, held in _own(network)}


def begin_own(network: nn.Module) -> None:
    """Give them their first values, and make them ready to be trained."""
    for _, module, leaf, held in _own(network):
        first: Tensor = vars(module)[_MARK][leaf]
        module._buffers[leaf] = first.to(held.device, copy=True).requires_grad_()


@contextmanager
def as_parameters(network: nn.Module) -> Iterator[None]:
    """Let whoever asks a network for its parameters find these tensors among them, for as long as this lasts."""
    lent = [(module, leaf, nn.Parameter(held.detach()), held.device) for _, module, leaf, held in _own(network)]
    for module, leaf, parameter, _ in lent:
        delattr(module, leaf)
        module.register_parameter(leaf, parameter)
    try:
        yield
    finally:
        for module, leaf, parameter, device in lent:
            delattr(module, leaf)
            module.register_buffer(leaf, parameter.detach().to(device).requires_grad_(), persistent=False)


def _own(network: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """A module none of whose parameters is trained has nothing of its own to train."""
    for path, module in network.named_modules():
        for leaf in vars(module).get(_MARK, ()) if module._parameters else ():
            held = module._buffers[leaf]
            assert held is not None  # it was put there
            yield path, module, leaf, held
