"""`flotilla profile`: measure this device, and say which tier it would get."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from flotilla.settings import SettingsError

_CONNECTS = 5


@dataclass(frozen=True, slots=True)
class TierFigures:
    """One tier on this device.

    Attributes:
        tier: its name.
        rate: share of every width, as text.
        parameters: of its part.
        bytes: of memory to train it, estimated unless on a GPU.
        estimated: whether they are.
        step: seconds of a training step; None if it was not run for want of memory.
        guessed: whether that is scaled from a smaller tier's.
        round: seconds that the training of a round is expected to take, without transfer; None likewise.
        why: "fits", or what is against it.
    """

    tier: str
    rate: str
    parameters: int
    bytes: int
    estimated: bool
    step: float | None
    guessed: bool
    round: float | None
    why: str


@dataclass(frozen=True, slots=True)
class Profile:
    """What `flotilla profile` found.

    Attributes:
        figures: of the device, by the names in `protocol.profile`.
        tiers: widest first.
        examples: training examples that a round was reckoned with.
        deadline, margin: see `strategies.measured.Rule`.
        tier: the one it would get; None if no tier fits the memory.
        reason: why, in one line.
        connect: median seconds of a TCP connection to the server; None if it was not asked for.
    """

    figures: dict[str, float]
    tiers: list[TierFigures]
    examples: int
    deadline: float
    margin: float
    tier: str | None
    reason: str
    connect: float | None

    def to_json(self) -> str:
        """Serialise."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def text(self) -> str:
        """As a person reads it."""
        f = self.figures
        mb = 1e6
        lines = [
            f"memory       {f['memory-available'] / mb:,.0f} MB free of {f['memory-total'] / mb:,.0f} MB",
            f"cores        {f['cores']:g}",
            f"matmul       {f['matmul'] / 1e9:.1f} GFLOP/s   (512 x 512, float32, the threads of the configuration)",
            f"convolution  {f['convolution'] / 1e9:.1f} GFLOP/s   (3 x 3, 32 channels, float32)",
        ]
        if self.connect is not None:
            lines.append(f"connect      {1e3 * self.connect:.1f} ms      (TCP to the server, median of {_CONNECTS})")
        lines += ["", f"{'tier':<8}{'rate':>6}{'parameters':>13}{'memory':>12}{'step':>13}{'round':>11}"]
        for tier in self.tiers:
            memory = f"{'~' if tier.estimated else ''}{tier.bytes / mb:,.1f} MB"
            step = "-" if tier.step is None else f"{'~' if tier.guessed else ''}{1e3 * tier.step:,.2f} ms"
            whole = "-" if tier.round is None else f"{tier.round:,.2f} s"
            lines.append(
                f"{tier.tier:<8}{tier.rate:>6}{tier.parameters:>13,}{memory:>12}{step:>13}{whole:>11}   {tier.why}"
            )
        lines += [
            "",
            f"round: {self.examples} training examples here. ~ is an estimate: memory from parameters and one batch's",
            "activations, beside the process itself; a step from a smaller tier's by multiply-accumulates.",
            "Bandwidth is not measured here: a run learns it from the seconds of its rounds.",
            "",
            f"tier: {self.tier or 'none'} ({self.reason})",
        ]
        return "\n".join(lines)


def profile(
    app_dir: Path, run_config: Sequence[str], *, examples: int | None = None, server: str | None = None
) -> Profile:
    """Measure this device for the configured network.

    Args:
        app_dir: the Flower app's folder.
        run_config: settings to change.
        examples: training examples that the device has; None is as many as client 0 of the configuration.
        server: "HOST:PORT", to which connecting is timed.

    Raises:
        SettingsError: one line saying what is wrong.
    """
    from flotilla.settings import app_defaults, check_keys, parse_run_config
    from server_app.config import resolve

    connect = None if server is None else connect_seconds(server)
    defaults, given = app_defaults(app_dir.expanduser().resolve()), parse_run_config(run_config)
    check_keys(given, defaults)
    try:
        config = resolve({**defaults, **given}, check_files=False)
        count = _examples(config.data) if examples is None else examples
        strategy = config.strategy()
    except ValueError as error:  # models.errors.SettingError is one
        raise SettingsError(" ".join(str(error).split())) from None

    from client_app.profile import measure
    from strategies.offers import Offers

    offers = Offers(strategy.network, strategy.settings, strategy.kept_plan, strategy.objective)
    figures = measure(offers.request())
    return _judged(offers, figures, count, strategy, connect)


def _judged(offers: Any, figures: dict[str, float], examples: int, strategy: Any, connect: float | None) -> Profile:
    from models.size import size_of
    from protocol.profile import GUESSED, MEASURED_PEAK
    from strategies.measured import first

    demand, rule = offers.demand(figures, examples), offers.rule
    limit = rule.margin * rule.deadline
    tiers, settings = [], strategy.settings
    for place, (tier, plan) in enumerate(zip(settings.tiers, offers.plans, strict=True)):
        seconds = demand.seconds(place)
        against = f"needs {demand.needed[place] / 1e6:,.0f} MB" if not demand.fits(place) else ""
        if not against and seconds > limit:
            against = f"takes longer than {rule.margin:g} of the deadline of {rule.deadline:g} s"
        known = demand.step[place] < inf
        tiers.append(TierFigures(
            tier.name, str(tier.rate), size_of(strategy.network, plan).parameters, int(demand.needed[place]),
            MEASURED_PEAK + tier.name not in figures, demand.step[place] if known else None,
            GUESSED + tier.name in figures, seconds if known else None, against or "fits",
        ))  # fmt: skip
    held = first(demand, rule)
    if held is None:
        name, reason = None, "the memory is too small for every tier"
    elif tiers[held.place].why == "fits":
        name, reason = tiers[held.place].tier, "the largest that fits the memory and meets the deadline"
    else:
        name, reason = tiers[held.place].tier, "the smallest that fits the memory; none meets the deadline"
    return Profile(figures, tiers, examples, rule.deadline, rule.margin, name, reason, connect)


def _examples(settings: Any) -> int:
    from data import node_data

    return len(node_data(settings, 0).train)


def connect_seconds(server: str) -> float:
    """Median seconds that a TCP connection to a server takes.

    Raises:
        SettingsError: it is no "HOST:PORT", or nobody answers there.
    """
    host, _, port = server.rpartition(":")
    if not host or not port.isdigit():
        raise SettingsError(f"server = {server!r}: allowed is HOST:PORT, such as 192.168.0.2:8000")
    times = []
    for _ in range(_CONNECTS):
        began = perf_counter()
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise SettingsError(f"server = {server!r}: nobody answers there ({error})") from None
        times.append(perf_counter() - began)
    return median(times)
