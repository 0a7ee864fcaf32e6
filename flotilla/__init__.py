"""One global network, trained across devices of any size: submodel federated learning on Flower.

model = flotilla.load("runs/latest", tier="c")
model.classes[model(model.preprocess("seven.png")).argmax()]
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flotilla.serving.load import load as load

if find_spec("flotilla._checkout"):  # in a wheel the packages stand here, in a checkout beside this folder
    from flotilla import _checkout

    _checkout.install()


def __getattr__(name: str) -> object:
    """`flotilla.load`, when it is first used: torch takes seconds to import, and a command line has no use for it."""
    if name == "load":
        from flotilla.serving.load import load

        return load
    raise AttributeError(f"module 'flotilla' has no attribute {name!r}")
