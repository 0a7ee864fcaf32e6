"""Split-Mix between accurate and robust.

Three runs of Split-Mix on the same devices: on clean inputs, on clean and adversarial ones through the same norms, and
with dual norms. The last one's network is then run with every share λ_t of its noise norms, on the whole test set as it
is and attacked. Nothing is trained for that: it is one network, and the curve is what a device can choose from.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flwr.serverapp import Grid

from benchmarks.document import RESULTS, Say, replace_part, table
from benchmarks.task import Command, Options
from client_app.app import app
from data import load
from flotilla.local.grid import LocalGrid, contexts
from flotilla.local.pool import PoolGrid
from models.device import device_named
from protocol import Scalar, keep_large_buffers
from server_app.config.resolve import resolve
from server_app.evaluation import Evaluator
from server_app.run import Run

FIGURE = RESULTS.with_name("robustness.svg")
SHARES = tuple(i / 10 for i in range(11))
ROUNDS = 30
Keys = dict[str, Scalar]

COMMON: Keys = {
    "method": "splitmix",
    "dataset": "digits",
    "model": "cnn",
    "widths": "32, 64, 64, 64",
    "splitmix-atom": "1/4",
    "tiers": "a:1, b:1/2, c:1/4",
    "num-clients": 10,
    "local-epochs": 2,
    "batch-size": 64,
    "local-test-fraction": 0.0,
    "adversarial-epsilon": "1/10",
    "slice-at": "server",
    "device": "cpu",
}
# How it is trained → what makes it.
TRAINING: dict[str, Keys] = {
    "clean only": {},
    "adversarial, one set of norms": {"adversarial": 0.5, "dual-norm": "off"},
    # Any share above 0 makes devices estimate the statistics of the noise norms on adversarial inputs.
    "adversarial, dual norms": {"adversarial": 0.5, "robust-mix": 0.5},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What one network of a run is worth.

    Attributes:
        training: a name in `TRAINING`.
        tier: whose network it is.
        share: λ_t; None where there are no dual norms.
        clean, robust: share of right answers on the test set, as it is and attacked.
    """

    training: str
    tier: str
    share: float | None
    clean: float
    robust: float


def measure(say: Say = print, rounds: int = ROUNDS, processes: int | None = None, **keys: Scalar) -> list[Point]:
    """Train and attack.

    Args:
        say: takes progress.
        rounds: of each run.
        processes: workers; None is one per core, 0 none.
        keys: run settings in place of those of `COMMON`, with "_" for "-".
    """
    common = (
        COMMON
        | {key.replace("_", "-"): value for key, value in keys.items()}
        | {
            "num-server-rounds": rounds,
            "evaluate-every": rounds,
            "checkpoint-every": rounds,
        }
    )
    shared, points = resolve(common), []
    workers = (
        nullcontext(LocalGrid(app, contexts(shared.flat, shared.num_clients)))
        if processes == 0
        else PoolGrid(shared.flat, shared.num_clients, processes)
    )
    with TemporaryDirectory() as folder, workers as grid:
        for name, own in TRAINING.items():
            place: Keys = {"run-dir": str(Path(folder) / name), "evaluate-robust": len(load(shared.data).test)}
            run = Run(resolve(common | own | place), grid, lambda line: None)
            summary = run.execute()
            found = _curve(name, run, grid, rounds) if "robust-mix" in own else _as_trained(name, summary)
            points += found
            for point in found:
                if point.tier == found[0].tier:
                    say(f"{name}, λ_t = {point.share}: clean {point.clean:.3f}, attacked {point.robust:.3f}")
    return points


def _as_trained(name: str, summary: dict[str, Any]) -> list[Point]:
    tiers = summary["last"]["tiers"]
    return [
        Point(training=name, tier=tier, share=None, clean=scores["accuracy"], robust=scores["robust"])
        for tier, scores in tiers.items()
    ]


def _curve(name: str, run: Run, grid: Grid, number: int) -> list[Point]:
    """Every tier's network with every share of its noise norms."""
    strategy, robust, data = run.strategy, run.config.robust, load(run.config.data)
    tiers = strategy.settings.tiers
    moments = strategy.runner.statistics(grid, number, tiers)
    points = []
    for share in SHARES:
        evaluator = Evaluator(
            strategy.network,
            data.test,
            device_named(run.config.settings.work.device),
            mix=share,
            attack=lambda: robust.attack(data),
            attacked=robust.rows(len(data.test)),
        )
        for tier in tiers:
            plan = strategy.kept_plan(strategy.context(number), tier)
            scores = evaluator.score(
                strategy.state,
                plan,
                strategy.part(strategy.context(number), plan, strategy.state),
                moments.get(tier.name),
            )
            if scores is not None and scores.robust is not None:
                points.append(
                    Point(training=name, tier=tier.name, share=share, clean=scores.own.accuracy, robust=scores.robust)
                )
    return points


def as_table(points: Sequence[Point]) -> str:
    """One line per training and share, clean / attacked accuracy of every tier, in Markdown."""
    tiers = list(dict.fromkeys(point.tier for point in points))
    lines: dict[tuple[str, str], list[str]] = {}
    for point in points:
        share = "-" if point.share is None else f"{point.share:.1f}"
        lines.setdefault((point.training, share), []).append(f"{100 * point.clean:.1f} / {100 * point.robust:.1f}")
    return table(["trained on", "λ_t", *tiers], [[*head, *cells] for head, cells in lines.items()], markdown=True)


_INK = "#222222"
_SHADES = ("#08306b", "#2166ac", "#7fb2d6")  # dark is wide
_MARKS = ("s", "^")


def draw(points: Sequence[Point], file: Path) -> None:
    """Draw attacked over clean accuracy: a curve per tier, and the other trainings as marks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tiers = list(dict.fromkeys(point.tier for point in points))
    fixed = list(dict.fromkeys(point.training for point in points if point.share is None))
    settings: dict[Any, Any] = {"svg.hashsalt": "flotilla", "font.size": 9, "svg.fonttype": "path"}
    with pyplot.rc_context(settings):
        figure, axis = pyplot.subplots(figsize=(5.6, 4.2))
        for tier, shade in zip(tiers, _SHADES, strict=False):
            own = [point for point in points if point.tier == tier]
            curve = [(100 * point.clean, 100 * point.robust) for point in own if point.share is not None]
            axis.plot(*zip(*curve, strict=True), "o-", color=shade, markersize=4, label=f"dual norms, tier {tier}")
            for text, (x, y) in (("0", curve[0]), ("1", curve[-1])):
                axis.annotate(text, (x, y), xytext=(4, 4), textcoords="offset points", color=shade, fontsize=8)
            for name, mark in zip(fixed, _MARKS, strict=False):
                at = next(point for point in own if point.training == name)
                label = name if tier == tiers[0] else None
                axis.plot(100 * at.clean, 100 * at.robust, mark, color=shade, markersize=8, label=label, linestyle="")
        axis.set_xlabel("accuracy on the test set, %", color=_INK)
        axis.set_ylabel("accuracy on the attacked test set, %", color=_INK)
        axis.set_title("One network, λ_t from 0 to 1", loc="left", color=_INK, fontsize=10)
        axis.grid(color="#eeeeee")
        axis.set_axisbelow(True)
        axis.legend(frameon=False, fontsize=8)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        figure.tight_layout()
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=160)
        pyplot.close(figure)


def _run(options: Options) -> int:
    """Run, print, and write the table and the picture."""
    keep_large_buffers()
    blocks = []
    for seed in options.seeds:
        points = measure(lambda line: print(line, flush=True), options.rounds, options.processes, seed=seed)
        blocks.append(f"{options.rounds} rounds; seed {seed}; clean / attacked accuracy in %.\n\n{as_table(points)}")
        print(blocks[-1])
        if options.write:
            draw(points, FIGURE)
    if options.write:
        replace_part(RESULTS, "robustness", "\n\n".join(blocks))
    return 0


TASK = Command(_run, defaults={"rounds": ROUNDS, "seeds": [1], "processes": None, "write": False})
