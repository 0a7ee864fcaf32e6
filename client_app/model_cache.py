"""One model object per shape and process, trained in place.

All tensors of a local model are views of one flat vector in the submodel's order. Loading a part, taking the difference
and encoding it are then one operation each, and nothing is allocated per client.
"""

from __future__ import annotations

from collections import OrderedDict
from math import sqrt

import torch
from flwr.app import Array
from torch import Tensor, nn

from client_app.cutting import cut, is_whole
from models.adapters.frozen import written_tensors
from models.adapters.own import begin_own, own_tensors
from models.algebra.plans import Plan
from models.algebra.submodel import flatten, shapes_of, split
from models.fused.buffers import Memory, places_of
from models.fused.coordinates import Coordinates
from models.fused.network import FusedNetwork
from models.fused.structure import layers_of
from models.networks.build import build_part, layout, load_frozen, shape_of, submodel
from models.networks.registry import NETWORKS
from models.networks.spec import NetworkSpec
from models.registry import is_path
from models.statistics import static_norms
from models.variants.importance import masked
from protocol import WireError, decode

_KEPT = 16
_models: OrderedDict[object, LocalModel] = OrderedDict()


class LocalModel:
    """A network whose whole state is one flat vector.

    Args:
        spec: the full network.
        plan: the part; only its sizes and depth matter, not which units it keeps.
        device: where it lives.

    Attributes:
        module: the network.
        device: where it lives.
        task: what its outputs are asked for.
        full_shapes: of the full state, by name.
        sizes: coordinates of the part's tensors, in order.
        flat: its state (float32, on the device), which training changes in place, unless it trains several at once.
        start: the state that was loaded or taken over last (float32, on the CPU).
        learnt: what has become of it: `flat`, unless it was taken over.
        part: what was loaded last, as blocks; with element masks if the plan keeps only a share of the weights.
        by_path: whether its network is named by an import path, which not everybody may follow.
    """

    def __init__(self, spec: NetworkSpec, plan: Plan, device: torch.device) -> None:
        self.module, self.device, self.task = build_part(spec, plan).to(device), device, spec.task
        state = self.module.state_dict()
        self.part, self._input_shape = submodel(spec, plan), spec.input_shape
        self.full_shapes, self._full = layout(spec).shapes, layout(spec).parameters
        self._held = submodel(spec, plan.holding).numel
        self.sizes = self.part.lengths
        expected = {name: block.local_shape for name, block in self.part.items()}
        if shapes_of(state) != expected:
            raise RuntimeError(f"{spec.name!r} built for {plan} does not have the shapes of its declaration")
        self.flat = torch.zeros(sum(tensor.numel() for tensor in state.values()), device=device)
        self._buffer = torch.zeros(self.flat.numel())
        self.start, self.learnt = self._buffer, self.flat
        for name, view in split(self.flat, expected).items():
            _point_at(self.module, name, view)
        self._norms = list(static_norms(self.module).values())
        self._has_own, self._holds_more = bool(own_tensors(self.module)), plan.holds_more
        self.by_path = is_path(spec.name)
        self._begun = {name: tensor.clone() for name, tensor in written_tensors(self.module).items()}
        self._fused, self._memory = dict[int, FusedNetwork](), Memory()

    def fused(self, clients: int) -> FusedNetwork:
        """The same network with backward passes of its own, of some clients side by side; its buffers stay.

        Raises:
            NotCoveredError: it has none.
        """
        if clients not in self._fused:
            self._fused[clients] = self._made_by_hand(clients)
        return self._fused[clients]

    def _made_by_hand(self, clients: int) -> FusedNetwork:
        layers, places = layers_of(self.module), places_of(self.module, self.flat)
        own = Coordinates(layers, places, input_shape=self._input_shape, clients=clients, like=self.flat)
        return FusedNetwork(layers, own, self._input_shape, self._memory)

    def load(self, spec: NetworkSpec, plan: Plan, state: Tensor | Array, *, sliced: bool) -> None:
        """Load a part from the flat state that was received: the part itself, or the whole state to be sliced here.

        What is received as it is held is not copied: it must stay as it is until `difference` has been asked.

        Args:
            spec: the full network.
            plan: the part, of this object's shape.
            state: float32 vector, or the array that came for it.
            sliced: whether it is the part.

        Raises:
            WireError: the array is not as long as what is held of the part (`sliced`), or the full state.
            ValueError: the vector is not.
        """
        self._restore()
        received = decode(state, self._held if sliced else self._full) if isinstance(state, Array) else state
        self.part = submodel(spec, plan)
        if plan.keep != 1:  # what was masked before it was sent has the same mask
            self.part = masked(self.part, split(received, self.full_shapes), layout(spec), plan.keep)
        if self._holds_more:
            holding = submodel(spec, plan.holding)
            held = holding.split(received) if sliced else holding.gather(split(received, self.full_shapes))
            load_frozen(self.module, plan, held)
            received = flatten({name: held[name] for name in self.part}, out=self._buffer)
        elif plan.keep != 1:
            received = flatten(self.part.gather(split(received, self.full_shapes)), out=self._buffer)
        elif not (sliced or is_whole(spec, plan)):
            received = cut(spec, plan, received, self._buffer)
        if received.shape != self._buffer.shape:
            raise ValueError(f"expected a part of {self._buffer.numel()} coordinates, got {tuple(received.shape)}")
        self.start, self.learnt = received, self.flat
        self.flat.copy_(self.start)

    def cut(self, spec: NetworkSpec, plan: Plan, state: Array, *, sliced: bool, out: Tensor) -> None:
        """Write a part into a flat vector of one's own, as `load` would have it; of one that is held as it is trained.

        Raises:
            WireError, ValueError: as `load`.
        """
        received = decode(state, self._held if sliced else self._full)
        if sliced or is_whole(spec, plan):
            out.copy_(received)
        else:
            cut(spec, plan, received, out)

    def take_over(self, spec: NetworkSpec, plan: Plan, *, start: Tensor, learnt: Tensor) -> None:
        """Have a part that was trained elsewhere, for `difference` and what encodes it.

        Args:
            spec: the full network.
            plan: the part, of this object's shape, held as it is trained.
            start: what it began from; it must stay as it is until `difference` has been asked.
            learnt: what became of it; likewise.
        """
        self.part, self.start, self.learnt = submodel(spec, plan), start, learnt

    def start_to_keep(self) -> Tensor:
        """What was loaded last, in memory that is not written to when the next part is loaded."""
        return self.start.clone() if self.start is self._buffer else self.start

    def _restore(self) -> None:
        """Give what is trained beside the state, and what layers write to of a base, its first values again."""
        for layer in self._norms:
            if layer.statistics is not None:  # a module's attributes take long to be set
                layer.statistics = None  # they belonged to other weights
        if not (self._has_own or self._begun):
            return
        with torch.no_grad():
            if self._has_own:
                begin_own(self.module)
            for name, tensor in written_tensors(self.module).items() if self._begun else ():
                tensor.copy_(self._begun[name])

    @torch.no_grad()
    def collect(self) -> None:
        """Take tensors back that somebody replaced while training, as `module.to(device)` does."""
        expected = {name: block.local_shape for name, block in self.part.items()}
        found = self.module.state_dict()
        for name, view in split(self.flat, expected).items():
            if found[name].data_ptr() != view.data_ptr():
                view.copy_(found[name])
                _point_at(self.module, name, view)

    def difference(self, out: Tensor | None = None) -> Tensor:
        """Trained minus loaded state, flat, on the CPU; to be asked once per `load` or `take_over`.

        Args:
            out: where it is written, or None: in a buffer that is used again.
        """
        difference = torch.sub(self.learnt.cpu(), self.start, out=self._buffer if out is None else out)
        self.start, self.learnt = self._buffer, self.flat  # not somebody else's memory, which is kept then
        return difference

    def parameter_norm(self, vector: Tensor) -> float:
        """L2 norm of a vector of this part over all parameters together, in float64; without running statistics."""
        names = dict(self.module.named_parameters()).keys()
        pieces = [piece for name, piece in self.part.split(vector).items() if name in names]
        return sqrt(sum(float(torch.linalg.vector_norm(p, dtype=torch.float64)) ** 2 for p in pieces))


def local_model(spec: NetworkSpec, plan: Plan, device: torch.device) -> LocalModel:
    """The process's model object of this shape; the caller has it until it asks for the same shape again.

    Raises:
        SettingError: the network is none, or an import path that is not followed here (`models.registry`).
    """
    key = shape_of(spec, plan), device
    if key not in _models or _models[key].by_path:
        NETWORKS[spec.name]  # a path is asked every time: what is kept may be of somebody who follows more
    if key not in _models:
        while len(_models) >= _KEPT:
            _models.popitem(last=False)
        _models[key] = LocalModel(spec, plan, device)
    _models.move_to_end(key)
    return _models[key]


def check_size(spec: NetworkSpec, plan: Plan, array: Array, *, sliced: bool) -> None:
    """See, before anything is built, that a network is no larger than the state that came for it.

    Raises:
        WireError: it is.
    """
    parameters = submodel(spec, plan).numel if sliced else layout(spec).parameters
    if 4 * parameters > len(array.data):
        raise WireError(f"a state of shape ({parameters},) is expected, and {len(array.data)} bytes came")


def _point_at(module: nn.Module, name: str, view: Tensor) -> None:
    """Make the named parameter or buffer a view of the flat vector."""
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    parameter = owner._parameters.get(leaf)
    if parameter is None:
        owner._buffers[leaf] = view
    else:
        parameter.data = view
