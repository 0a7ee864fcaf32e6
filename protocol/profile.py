"""What a device is asked to measure of itself, and the names of the figures that it says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from models.algebra.plans import Plan
from models.networks.spec import NetworkSpec
from protocol.arrays import WireError
from protocol.messages import Objective, Optimiser, Work

AUTO = "auto"  # the tier that a node config tells if the device is to be measured
# Figures; those of a tier are followed by its name.
MEMORY_TOTAL, MEMORY_AVAILABLE, CORES = "memory-total", "memory-available", "cores"  # bytes, bytes, number
MATMUL, CONVOLUTION = "matmul", "convolution"  # FLOP/s
STEP, NEEDED = "step:", "needed:"  # seconds a training step, bytes of training
GUESSED, MEASURED_PEAK = "guessed:", "measured-peak:"  # 1 if the step was scaled from a smaller tier's; if bytes were


@dataclass(frozen=True, slots=True)
class Offered:
    """What a tier would train.

    Attributes:
        plan: the part.
        objective: what would be optimised.
        work: how.
    """

    plan: Plan
    objective: Objective = Objective()
    work: Work = Work()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRequest:
    """Measure training steps of the part of every tier.

    Attributes:
        network: the full network.
        tiers: what each would train, by name, widest first.
        optimiser: of the first round.
        whole: whether devices get the whole state and slice it themselves.
        everyone: whether all devices are to measure, not only those whose node config says so.
        seconds: about how long the steps of all tiers may take together; what is left out is scaled from a smaller
            tier's by its multiply-accumulates, and said to be.
    """

    network: NetworkSpec
    tiers: Mapping[str, Offered]
    optimiser: Optimiser = field(default_factory=lambda: Optimiser(0.01))
    whole: bool = True
    everyone: bool = False
    seconds: float = 15.0

    def to_json(self) -> str:
        """Serialise."""
        tiers = {
            name: {"plan": tier.plan.to_json(), "objective": asdict(tier.objective), "work": asdict(tier.work)}
            for name, tier in self.tiers.items()
        }
        return json.dumps(
            {
                "network": self.network.to_json(),
                "tiers": tiers,
                "optimiser": asdict(self.optimiser),
                "whole": self.whole,
                "everyone": self.everyone,
                "seconds": self.seconds,
            }
        )

    @staticmethod
    def from_json(text: str) -> ProfileRequest:
        """Read what `to_json` wrote.

        Raises:
            WireError: it is something else.
        """
        try:
            read = json.loads(text)
            tiers = {
                str(name): Offered(Plan.from_json(tier["plan"]), Objective(**tier["objective"]), Work(**tier["work"]))
                for name, tier in read["tiers"].items()
            }
            network, optimiser = NetworkSpec.from_json(read["network"]), Optimiser(**read["optimiser"])
            return ProfileRequest(
                network=network,
                tiers=tiers,
                optimiser=optimiser,
                whole=bool(read["whole"]),
                everyone=bool(read["everyone"]),
                seconds=float(read["seconds"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise WireError(f"unreadable request: {error!r}") from error
