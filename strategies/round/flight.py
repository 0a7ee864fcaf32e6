"""A request that a device works on while rounds pass, and what a checkpoint holds of it.

Of what was asked only that is saved which no function of the round and the tier gives again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from math import inf
from typing import Any

from torch import Tensor

from models.algebra.plans import Plan
from protocol import Hello, Work
from strategies.context import RoundContext
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.node import Node
from strategies.exchange.stateful import Saved
from strategies.exchange.update import ClientUpdate, Rejected
from strategies.method import Method
from strategies.tiers.tier import Tier

_NUMBERS = ("bytes_down", "bytes_up", "norm", "norm_received", "entropy_bytes", "span")


@dataclass(slots=True, kw_only=True)
class Flight:
    """What a device works on in virtual time; it has trained already.

    Attributes:
        assignment: what it was asked.
        update: its reply, decoded; or why there is none to be used.
        missed: whether the reply did not come, or was an error.
        seconds: from its beginning until that is known.
        due: the same since the run began; infinite for who has not begun.
    """

    assignment: TrainAssignment
    update: ClientUpdate | Rejected
    missed: bool
    seconds: float
    due: float = inf


def saved(flight: Flight) -> Saved:
    """Tensors by name, and JSON."""
    one, update = flight.assignment, flight.update
    values = {
        "hello": asdict(replace(one.node.hello, examples=one.node.examples)),
        "tier": one.tier,
        "plan": one.plan.to_json(),
        "nonce": one.nonce,
        "weight": one.weight,
        "asked_in": one.asked_in,
        "missed": flight.missed,
        "seconds": flight.seconds,
        "due": flight.due,
    }
    if isinstance(update, Rejected):
        return {}, values | {"why": str(update)}
    reply = {"metrics": dict(update.metrics)} | {name: getattr(update, name) for name in _NUMBERS}
    kept = {f"remember/{name}": vector for name, vector in update.remember.items()}
    return {"difference": update.difference} | kept, values | {"reply": reply}


def restored(
    values: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    method: Method,
    context: RoundContext,
    work_of: Callable[[Tier], Work],
) -> Flight:
    """Take up what was `saved`.

    Args:
        values, tensors: see there.
        method: says again what the device was asked.
        context: of any round.
        work_of: how the nodes of a tier train.
    """
    then, plan = context.at(values["asked_in"]), Plan.from_json(values["plan"])
    (tier,) = (one for one in then.settings.tiers if one.name == values["tier"])
    hello: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values["hello"].items()
    }
    assignment = TrainAssignment(
        node=Node(0, Hello(**hello)),  # nothing more is sent to where it was
        tier=tier.name,
        plan=plan,
        part=method.part(then, plan, {}),
        nonce=values["nonce"],
        objective=method.objective(then, tier),
        optimiser=method.optimiser(then, tier),
        work=work_of(tier),
        weight=values["weight"],
        asked_in=values["asked_in"],
    )
    update: ClientUpdate | Rejected = Rejected(values.get("why", ""))
    if reply := values.get("reply"):
        numbers: dict[str, Any] = {**reply, "span": tuple(reply["span"])}
        update = ClientUpdate(**numbers, difference=tensors["difference"], remember=under("remember/", tensors))
    return Flight(
        assignment=assignment, update=update, missed=values["missed"], seconds=values["seconds"], due=values["due"]
    )


def under(start: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose names begin so, without it."""
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
