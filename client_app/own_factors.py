"""What a device trains of a network and keeps to itself, in the coordinates of the full network.

A device of another rank than before finds what it knows of the ranks that it has now. One that lost its memory begins
again at the first values, and its reply says so.
"""

from __future__ import annotations

import torch

from client_app.client_state import ClientState
from client_app.model_cache import LocalModel
from models.adapters.own import own_tensors
from models.algebra.box_vector import BoxVector
from models.algebra.plans import Plan
from models.algebra.plans import submodel as cut
from models.algebra.submodel import flatten
from models.networks.build import own_layout
from models.networks.spec import NetworkSpec

NAME = "own"


class OwnFactors:
    """A device's own tensors, put into the network of its part.

    Args:
        model: with the part loaded.
        spec: the full network, of which devices keep something to themselves.
        plan: the part.
        memory: what the device keeps.

    Attributes:
        began_anew: whether nothing was known of them.
    """

    def __init__(self, model: LocalModel, spec: NetworkSpec, plan: Plan, memory: ClientState) -> None:
        layout = own_layout(spec)
        self._model, self._memory, self._part = model, memory, cut(layout, plan)
        found = memory.read(NAME)
        known = None if found is None else BoxVector.from_vector(found, layout)
        self.began_anew = known is None
        self._held = (known or BoxVector.empty(layout)).widened_by(self._part)
        own = own_tensors(model.module)
        with torch.no_grad():
            for name, values in self._part.split(self._held.gather(self._part)).items():
                own[name].copy_(values)

    def keep(self) -> None:
        """Remember what they are now."""
        own = own_tensors(self._model.module)
        self._held.scatter(self._part, flatten({name: own[name].detach().cpu() for name in self._part}))
        self._memory.write(NAME, self._held.to_vector())


def own_factors(model: LocalModel, spec: NetworkSpec, plan: Plan, memory: ClientState) -> OwnFactors | None:
    """Put a device's own tensors into a network; None where it has none."""
    return OwnFactors(model, spec, plan, memory) if own_layout(spec).tensors else None
