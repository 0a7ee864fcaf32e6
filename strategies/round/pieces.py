"""Everything that a run remembers from round to round, by name: made here, walked over for rounds and checkpoints."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

from flwr.serverapp import Grid
from torch import Tensor

from models.algebra.average import PartialAverage
from models.algebra.factor_average import FactorAverage
from models.errors import SettingError
from models.networks.build import initial_state
from models.networks.spec import NetworkSpec
from models.randomness import torch_generator
from protocol import BaseQuestion, Work
from strategies.aggregation.feddyn import FedDynCorrection
from strategies.aggregation.global_state import GlobalState
from strategies.clustering.base import Basis, Clustering
from strategies.clustering.options import clustering
from strategies.context import RoundContext
from strategies.exchange.stateful import RoundOutcome, Saved, Stateful
from strategies.method import Method, Values
from strategies.nodes.availability import Availability
from strategies.nodes.manager import NodeManager
from strategies.nodes.patience import Patience
from strategies.nodes.requirements import TierRequirements
from strategies.robustness.norm_bounds import NormBounds
from strategies.robustness.options import GuardOptions
from strategies.robustness.privacy import Privacy
from strategies.round.buffer import Buffer
from strategies.round.parts import kept_part
from strategies.round.selection import SelectionRunner
from strategies.settings import Settings
from strategies.tiers.tier import Tier
from strategies.transport.downlink import Downlink
from strategies.transport.uplink import UplinkDecoder
from strategies.virtual.clock import VirtualClock

NO_GUARD = GuardOptions(guard=False, guard_norm="off", guard_rollbacks=0)


class MethodMemory(Stateful):
    """What the method remembers of the run.

    Args:
        method: what is trained by.
        context: of the first round.

    Attributes:
        values: as `Method.plan_round` and `Method.learnt` gave them.
    """

    def __init__(self, method: Method, context: RoundContext) -> None:
        self._method, self._context = method, context
        self.values: Values = method.initial_values()

    def learn(self, outcome: RoundOutcome) -> None:
        """Take in what nodes said."""
        context = self._context.at(outcome.report.number)
        self.values = self._method.learnt(context, self.values, outcome.counted)

    def checkpoint(self) -> Saved:
        """The values, which are JSON."""
        return {}, dict(self.values)

    def restore(self, tensors: Mapping[str, Tensor], values: Any) -> None:
        """Take up a `checkpoint`."""
        del tensors
        self.values = dict(values)


class Pieces:
    """The stateful pieces of a run.

    Args:
        method: what is trained by.
        context: of the first round.

    Attributes:
        clusters: the global states, and who trains which.
        selection: who takes part.
        uplink, downlink: what is kept for the codecs of both ways.
        norm_bounds: how long a difference may be, by tier.
        privacy: the noise of differential privacy, if it is on.
        manager: the nodes met so far. They introduce themselves anew after a restart; whose an id is, `nodes` saves.
        nodes: who is there, and in which tier.
        patience: how long they are waited for.
        clock: of virtual devices, if there are some.
        memory: what the method remembers.
        buffer: who trains while rounds pass, if rounds do not wait.
        work_of: how the nodes of a tier train; found once for each.
        by_name: those of them that the next rounds depend on.
    """

    def __init__(self, method: Method, context: RoundContext) -> None:
        settings = context.settings
        self.clusters: Clustering = clustering(settings.clustering, _basis(method, context))
        self.selection = SelectionRunner(settings, context.layout)
        self.uplink = UplinkDecoder(settings.codec, context.layout, settings.nodes)
        if method.PER_COORDINATE and self.uplink.remembers and len(self.clusters.states) > 1:
            why = "what is remembered of a node is seen through the mask of one state, and it chooses among several"
            raise SettingError("codec", settings.codec.name, f"one that keeps nothing of a node at the server: {why}")
        self.downlink = Downlink(settings.codec_down, context.layout, settings.seed)
        single = not settings.secure.secure_aggregation  # of a sum nobody sees how long its terms were
        self.norm_bounds = NormBounds(settings.guard if single else NO_GUARD, settings.aggregation)
        self.privacy = Privacy(settings.guard, settings.nodes) if settings.guard.dp_noise else None
        self.manager = _manager(settings, context.network, method)
        self.clock, self.patience = _clock(context), Patience(settings)
        self.nodes = Availability(
            settings,
            self.manager,
            requirements=partial(requirements, method, context),
            patience=self.patience,
            clock=self.clock,
        )
        self.memory = MethodMemory(method, context)
        self.work_of: Callable[[Tier], Work] = lru_cache(maxsize=64)(settings.work_of)
        self.buffer: Buffer | None = None
        if settings.buffered and self.clock is not None:
            self.buffer = Buffer(method, context, uplink=self.uplink, clock=self.clock, work_of=self.work_of)
        self._asks = settings.secure.secure_aggregation or self.selection.asks
        every: dict[str, Stateful | None] = {
            "clusters": self.clusters,
            "selection": self.selection,
            "uplink": self.uplink,
            "downlink": self.downlink,
            "norm-bounds": self.norm_bounds,
            "privacy": self.privacy,
            "nodes": self.nodes,
            "patience": self.patience,
            "clock": self.clock,
            "method": self.memory,
            "buffer": self.buffer,
        }
        self.by_name: dict[str, Stateful] = {name: piece for name, piece in every.items() if piece is not None}

    def wait_first(self, grid: Grid, round_number: int) -> bool:
        """Whether planning a round waits for nodes: to come back, or to answer what is asked before they train."""
        return self._asks or self.nodes.waits(grid, round_number)

    def begin(self, round_number: int) -> None:
        """Begin a round."""
        state = self.clusters.states[self.clusters.main].flat
        for piece in self.by_name.values():
            if piece.begins:
                piece.begin(round_number, state)

    def learn(self, outcome: RoundOutcome) -> None:
        """Take in what came of a round."""
        for piece in self.by_name.values():
            piece.learn(outcome)

    def checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the next rounds depend on: tensors as "piece/name", and JSON by piece."""
        tensors: dict[str, Tensor] = {}
        values: dict[str, Any] = {}
        for name, piece in self.by_name.items():
            own, values[name] = piece.checkpoint()
            tensors |= {f"{name}/{key}": tensor for key, tensor in own.items()}
        return tensors, values

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take up a `checkpoint`."""
        for name, piece in self.by_name.items():
            start = f"{name}/"
            own = {key.removeprefix(start): tensor for key, tensor in tensors.items() if key.startswith(start)}
            piece.restore(own, values[name])


def requirements(method: Method, context: RoundContext) -> TierRequirements:
    """What the tiers of a run ask of a device in its first round."""
    first = context.at(1)
    return TierRequirements(
        first.network,
        first.settings,
        kept_plan=partial(kept_part, method, first),
        objective=partial(method.objective, first),
    )


def _manager(settings: Settings, network: NetworkSpec, method: Method) -> NodeManager:
    """Who says hello to nodes, and takes no more of them than the run has."""
    most = settings.nodes if settings.closed else sys.maxsize
    base = BaseQuestion(network=network, seed=settings.seed) if network.base else None
    labels, tokens = method.needs_labels(), method.needs_tokens()
    return NodeManager(most=most, labels=labels, tokens=tokens, facts=settings.facts, base=base)


def _basis(method: Method, context: RoundContext) -> Basis:
    """What clusters are made of."""
    settings, layout = context.settings, context.layout

    def make() -> GlobalState:
        alpha = settings.dynamic_alpha
        dynamic = FedDynCorrection(alpha, layout, settings.nodes, settings.dynamic_scaling) if alpha else None
        if method.KEEPS_FACTORS:
            average: PartialAverage = FactorAverage(layout)
        else:
            average = settings.guard.average(layout, per_coordinate=method.PER_COORDINATE)
        return GlobalState(layout, average, dynamic=dynamic, remembered=method.initial_tensors(layout))

    def draw(purpose: str) -> Mapping[str, Tensor]:
        return initial_state(context.network, torch_generator(settings.seed, 0, "server", purpose))

    return Basis(
        layout=layout,
        make=make,
        draw=draw,
        seed=settings.seed,
        learning_rate=lambda number: settings.schedule.optimiser(number).learning_rate,
        noisy=settings.codec.noisy,
    )


def _clock(context: RoundContext) -> VirtualClock | None:
    """The clock of virtual devices, if there are some."""
    settings = context.settings
    if settings.fleet is None:
        return None
    return VirtualClock(
        settings.fleet,
        context.network,
        nodes=settings.nodes,
        seed=settings.seed,
        deadline=settings.deadline,
        batch_size=settings.work.batch_size,
        whole=settings.slice_at == "client",
    )
