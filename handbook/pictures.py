"""What every tier of a method holds, drawn as reports draw it, on the default job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from models.errors import SettingError
from protocol import Scalar
from server_app.config import resolve
from server_app.opening import network_of
from server_app.report.network_picture import standalone
from strategies import FlowerStrategy

# The default job; and, for rules about pairs of low-rank factors, which it has none of, the one of examples/ranks.toml.
JOBS: tuple[Mapping[str, Scalar], ...] = (
    {},
    {
        "model": "vit",
        "widths": "32, 64",
        "blocks": "2",
        "heads": 2,
        "adapter": "lora:16",
        "tiers": "a:16, b:8, c:4, d:2, e:1",
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A method on a job that it takes.

    Attributes:
        job: what differs from the default job.
        svg: the picture, a file of its own.
        doubts: what it says works, but not as one might expect.
        network: the network's name, norm and kind of exits, in words.
    """

    job: Mapping[str, Scalar]
    svg: str
    doubts: tuple[str, ...]
    network: str


def shown(name: str) -> Shown | str:
    """Draw a method on the first of the jobs that it takes; why it takes none, otherwise."""
    why = ""
    for job in JOBS:
        try:
            strategy = resolve({}, overrides={"method": name, **job}).strategy()
        except SettingError as error:
            why = why or " ".join(str(error).split())
            continue
        return Shown(
            job=job,
            svg=standalone(network_of(strategy)),
            doubts=tuple(strategy.doubts(strategy.context(1))),
            network=_network(strategy),
        )
    return why


def _network(strategy: FlowerStrategy) -> str:
    spec = strategy.network
    exits = f", {spec.exits} exits" if spec.exits != "last" else ""
    return f"`{spec.name}`, norm `{spec.norm}`{exits}"
