"""What a device is asked to measure of itself, and the names of the figures that it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from models.algebra.plans import Plan
from models.networks.spec import NetworkSpec
from protocol.records import from_text, to_text
from protocol.requests import Objective, Optimiser, Work

AUTO = "auto"  # the tier that a node config tells if the device is to be measured
# Figures; those of a tier are followed by its name.
MEMORY_TOTAL, MEMORY_AVAILABLE, CORES = "memory-total", "memory-available", "cores"  # bytes, bytes, number
MATMUL, CONVOLUTION = "matmul", "convolution"  # FLOP/s
STEP, NEEDED = "step:", "needed:"  # seconds a training step, bytes of training
GUESSED, MEASURED_PEAK = "guessed:", "measured-peak:"  # 1 if the step was scaled from a smaller tier's; if bytes were


@dataclass(frozen=True, slots=True)
class TierWork:
    """What a device of a tier would train.

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
        tiers: what each would train, by name, widest first; at least one.
        optimiser: of the first round.
        whole: whether devices get the whole state and slice it themselves.
        everyone: whether all devices are to measure, not only those whose node config says so.
        seconds: about how long the steps of all tiers may take together; what is left out is scaled from a smaller
            tier's by its multiply-accumulates, and said to be.
    """

    network: NetworkSpec
    tiers: Mapping[str, TierWork]
    optimiser: Optimiser = Optimiser(0.01)
    whole: bool = True
    everyone: bool = False
    seconds: float = 15.0

    def to_text(self) -> str:
        """As JSON."""
        return to_text(self)

    @staticmethod
    def from_text(text: str) -> ProfileRequest:
        """Read what `to_text` wrote.

        Raises:
            WireError: it is something else.
        """
        return from_text(ProfileRequest, text)
