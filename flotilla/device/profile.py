"""`flotilla profile`: measure this device, and say which tier it would get."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any

from flotilla.device.bandwidth import Line, measure_line
from flotilla.settings import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
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
        bytes_down, bytes_up: of a round's arrays, encoded.
        transfer: seconds that they take on the line that was measured; None if it was not.
        round: seconds that a round is expected to take, the transfer included where it is known; None likewise.
        why: "fits", or what is against it.
    """

    tier: str
    rate: str
    parameters: int
    bytes: int
    estimated: bool
    step: float | None
    guessed: bool
    bytes_down: int
    bytes_up: int
    transfer: float | None
    round: float | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What `flotilla profile` found.

    Attributes:
        figures: of the device, by the names in `protocol.profile`.
        tiers: widest first.
        examples: training examples that a round was reckoned with.
        deadline, margin: see `strategies.tiers.adaptive.Rule`.
        tier: the one it would get; None if no tier fits the memory.
        reason: why, in one line.
        line: to the server; None if it was not asked for.
    """

    figures: dict[str, float]
    tiers: list[TierFigures]
    examples: int
    deadline: float
    margin: float
    tier: str | None
    reason: str
    line: Line | None

    def to_json(self) -> str:
        """Serialise."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def text(self) -> str:
        """As a person reads it."""
        f, mb = self.figures, 1e6
        rate = max([6, *(2 + len(tier.rate) for tier in self.tiers)])
        lines = [
            f"memory       {f['memory-available'] / mb:,.0f} MB free of {f['memory-total'] / mb:,.0f} MB",
            f"cores        {f['cores']:g}",
            f"matmul       {f['matmul'] / 1e9:.1f} GFLOP/s   (512 x 512, float32, the threads of the configuration)",
            f"convolution  {f['convolution'] / 1e9:.1f} GFLOP/s   (3 x 3, 32 channels, float32)",
        ]
        if self.line is not None:
            lines += [
                f"up           {self.line.up.text()}",
                f"down         {self.line.down.text()}",
                f"round trip   {1e3 * self.line.round_trip:.1f} ms      (an empty request to {self.line.server}"
                f"{' over TLS' if self.line.tls else ''}; {1e3 * self.line.connect:.1f} ms to connect)",
            ]
        lines += [
            "",
            f"{'tier':<8}{'rate':>{rate}}{'parameters':>13}{'memory':>12}{'step':>13}{'down/up MB':>16}{'transfer':>11}"
            f"{'round':>11}",
        ]
        for tier in self.tiers:
            memory = f"{'~' if tier.estimated else ''}{tier.bytes / mb:,.1f} MB"
            step = "-" if tier.step is None else f"{'~' if tier.guessed else ''}{1e3 * tier.step:,.2f} ms"
            moved = f"{tier.bytes_down / mb:,.3f}/{tier.bytes_up / mb:,.3f}"
            transfer = "-" if tier.transfer is None else f"{'<' if self._at_most() else ''}{tier.transfer:,.2f} s"
            whole = "-" if tier.round is None else f"{tier.round:,.2f} s"
            lines.append(
                f"{tier.tier:<8}{tier.rate:>{rate}}{tier.parameters:>13,}{memory:>12}{step:>13}{moved:>16}{transfer:>11}"
                f"{whole:>11}   {tier.why}"
            )
        lines += [
            "",
            f"round: {self.examples} training examples here. ~ is an estimate: memory from parameters and one batch's",
            "activations, beside the process itself; a step from a smaller tier's by multiply-accumulates.",
            self._transfer_note(),
            "",
            f"tier: {self.tier or 'none'} ({self.reason})",
        ]
        return "\n".join(lines)

    def _at_most(self) -> bool:
        return self.line is not None and (self.line.up.least or self.line.down.least)

    def _transfer_note(self) -> str:
        if self.line is None:
            return "Without --server nothing is known of the line, and a round is the training alone."
        unknown = [name for name in ("up", "down") if getattr(self.line, name).bytes is None]
        if unknown:
            return f"Not in it: what goes {' and '.join(unknown)}, and Flower's own seconds for every message."
        return "Transfer: the arrays at the rates above; Flower's own seconds for every message are not in it."


def profile(
    app_dir: Path,
    run_config: Sequence[str],
    *,
    examples: int | None = None,
    server: str | None = None,
    root: Path | None = None,
) -> Profile:
    """Measure this device for the configured network.

    Args:
        app_dir: the Flower app's folder.
        run_config: settings to change.
        examples: training examples that the device has; None is as many as client 0 of the configuration.
        server: "HOST:PORT" of the SuperLink to which the line is measured.
        root: file of certificates that vouch for it; None is a SuperLink without TLS.

    Raises:
        SettingsError: one line saying what is wrong.
    """
    from flotilla.settings import app_defaults, check_keys, moved, parse_run_config
    from models.device import device_named
    from server_app.config.resolve import resolve

    if root is not None and server is None:
        raise SettingsError(f"root-certificates = {str(root)!r}: allowed is that with --server")
    defaults, given = app_defaults(app_dir.expanduser().resolve()), parse_run_config(run_config)
    check_keys(given, defaults, moved)
    try:
        config = resolve({**defaults, **given}, check_files=False)
        count = _examples(config.data) if examples is None else examples
        strategy = config.strategy()
        device_named(config.settings.work.device)
    except ValueError as error:  # models.errors.SettingError is one
        raise SettingsError(" ".join(str(error).split())) from None

    from client_app.profile import measure
    from strategies.round.pieces import requirements

    offers = requirements(strategy, strategy.context(1))
    line = None if server is None else measure_line(server, root)
    figures = measure(offers.request())
    return _judged(offers, figures, count, strategy, line)


def _judged(offers: Any, figures: dict[str, float], examples: int, strategy: Any, line: Line | None) -> Profile:
    from models.cost import cost_of
    from protocol.profile import GUESSED, MEASURED_PEAK
    from strategies.tiers.adaptive import first

    traffic, rule = offers.traffic(), offers.rule
    transfer = [] if line is None else [line.down.seconds(down) + line.up.seconds(up) for down, up in traffic]
    demand = offers.demand(figures, examples, transfer)
    limit = rule.margin * rule.deadline
    tiers, settings = [], strategy.settings
    for position, (tier, plan) in enumerate(zip(settings.tiers, offers.plans, strict=True)):
        seconds = demand.seconds(position)
        against = f"needs {demand.needed[position] / 1e6:,.0f} MB" if not demand.fits(position) else ""
        if not against and seconds > limit:
            against = f"takes longer than {rule.margin:g} of the deadline of {rule.deadline:g} s"
        known = demand.step[position] < inf
        tiers.append(
            TierFigures(
                tier=tier.name,
                rate=str(tier.rate),
                parameters=cost_of(strategy.network, plan).parameters,
                bytes=int(demand.needed[position]),
                estimated=MEASURED_PEAK + tier.name not in figures,
                step=demand.step[position] if known else None,
                guessed=GUESSED + tier.name in figures,
                bytes_down=traffic[position][0],
                bytes_up=traffic[position][1],
                transfer=transfer[position] if transfer else None,
                round=seconds if known else None,
                why=against or "fits",
            )
        )
    found = first(demand, rule)
    if found is None:
        name, reason = None, "the memory is too small for every tier"
    elif tiers[found.position].why == "fits":
        name, reason = tiers[found.position].tier, "the largest that fits the memory and meets the deadline"
    else:
        name, reason = tiers[found.position].tier, "the smallest that fits the memory; none meets the deadline"
    return Profile(
        figures=figures,
        tiers=tiers,
        examples=examples,
        deadline=rule.deadline,
        margin=rule.margin,
        tier=name,
        reason=reason,
        line=line,
    )


def _examples(settings: Any) -> int:
    from data import node_data

    return len(node_data(settings, 0).train)
