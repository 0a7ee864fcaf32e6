"""What the papers of selection, fairness and compression say, tried.

- pow-d: Power-of-Choice against uniform draws at several learning rates (Cho, Wang, Joshi 2022: faster, more so with
  skewed labels).
- q-ffl: q-FedAvg against the plain mean (Li et al., ICLR 2020: less variance at little cost in the mean). HAR by
  subject.
- fedpaq: test loss against bytes sent up (Reisizadeh et al., AISTATS 2020), with error against bits of one difference.

- eden: a ResNet-18 whose differences cross in half a bit a coordinate (Vargaftik et al., ICML 2022).

Tables and the plot go into docs/claims.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from math import prod
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.document import DOCS, replace_part, table
from benchmarks.experiments.plot import picture, plain
from benchmarks.experiments.runs import Keys, metrics_of, spread
from benchmarks.task import Command, Options
from models.networks.build import layout
from models.randomness import generator, torch_generator
from protocol.codecs import NOTHING, CodecSettings, codec_of
from server_app.config.resolve import resolve

DOCUMENT = DOCS / "claims.md"
FIGURE = DOCUMENT.with_name("fedpaq.svg")
Row = Mapping[str, Any]

QUIET: Keys = {"evaluate-every": 1000, "checkpoint-every": 1000, "device": "cpu"}
DIGITS: Keys = {
    "dataset": "digits",
    "model": "mlp",
    "partition": "dirichlet",
    "dirichlet-alpha": 0.3,
    "num-clients": 40,
    "local-test-fraction": 0.0,
    "batch-size": 16,
}
POW_D: Keys = {
    **QUIET,
    **DIGITS,
    "method": "fedavg",
    "tiers": "a:1",
    "widths": "64, 32",
    "norm": "none",
    "fraction-train": 0.1,
    "selection-candidates": 16,
    "num-server-rounds": 40,
    "learning-rate-schedule": "constant",
    "evaluate-every": 5,
}
SELECTORS, RATES = ("uniform", "by-size", "pow-d", "cpow-d", "rpow-d"), (0.01, 0.03, 0.1, 0.3)
# One full gradient a round, so that nothing but the rule differs from the plain mean.
Q_FFL: Keys = {
    **QUIET,
    "method": "fedavg",
    "tiers": "a:1",
    "dataset": "har",
    "model": "mlp",
    "widths": "4",
    "norm": "none",
    "partition": "natural",
    "num-clients": 21,
    "local-test-fraction": 0.3,
    "fraction-evaluate": 1.0,
    "num-server-rounds": 300,
    "local-steps": 1,
    "batch-size": 512,
    "momentum": 0.0,
    "clip-norm": 0.0,
    "weight-decay": 0.0,
    "learning-rate": 0.1,
    "learning-rate-schedule": "constant",
    "aggregation": "q-fedavg",
}
QS = (0.0, 0.1, 1.0, 5.0)
FEDPAQ: Keys = {
    **QUIET,
    **DIGITS,
    "method": "heterofl",
    "tiers": "a:1, b:1/2, c:1/4",
    "widths": "128, 64",
    "fraction-train": 0.5,
    "num-server-rounds": 30,
    "evaluate-every": 1,
}
CODECS: dict[str, Keys] = {
    "float32": {},
    "float16": {"codec": "float16"},
    **{f"s = {s}": {"codec": "qsgd", "codec-levels": s, "codec-entropy": "range"} for s in (127, 15, 7, 3, 1)},
    "top 1 %": {"codec": "topk"},
    "EF21, 1 %": {"codec": "ef21"},
}
EDEN: Keys = {
    **FEDPAQ,
    "method": "fedavg",
    "tiers": "a:1",
    "model": "resnet",
    "widths": "64, 128, 256, 512",
    "blocks": "2, 2, 2, 2",
    "fraction-train": 0.25,
    "num-server-rounds": 20,
    "evaluate-every": 5,
}
OF_EDEN: dict[str, Keys] = {"float32": {}, "s = 7": CODECS["s = 7"], "EDEN": {"codec": "eden"}}


def pow_d(seeds: Sequence[int]) -> str:
    """Accuracy after half and all of the rounds, by selector and learning rate."""
    lines = []
    for rate in RATES:
        for name in SELECTORS:
            own: Keys = {"selection": name, "learning-rate": rate}
            runs = [metrics_of({**POW_D, **own, "seed": seed}) for seed in seeds]
            at = [spread(rows[number - 1]["accuracy"] for rows in runs) for number in (10, 20, 40)]
            losses = spread((rows[-1]["loss"] for rows in runs), scale=1, digits=3)
            lines.append([f"{rate:g}", name, *at, losses])
            print(" | ".join(lines[-1]), flush=True)
    heads = ["learning rate", "selection", "accuracy, round 10", "round 20", "round 40", "test loss, round 40"]
    return table(heads, lines, markdown=True)


def q_ffl(seeds: Sequence[int]) -> str:
    """Accuracy over the clients' own test examples, by q."""
    lines = []
    for q in QS:
        runs = [metrics_of({**Q_FFL, "aggregation-q": q, "seed": seed})[-1]["fairness"] for seed in seeds]
        lines.append(
            [
                f"{q:g}",
                spread(one["mean"] for one in runs),
                spread((one["variance_points2"] for one in runs), scale=1, digits=0),
                spread(one["worst_10_percent_mean"] for one in runs),
                spread(one["best_10_percent_mean"] for one in runs),
                spread((one["angle"] for one in runs), scale=1, digits=3),
            ]
        )
        print(" | ".join(lines[-1]), flush=True)
    heads = ["q", "mean", "variance", "worst 10 %", "best 10 %", "angle to uniform"]
    return table(heads, lines, markdown=True)


def fedpaq(seeds: Sequence[int], figure: Path | None = FIGURE) -> str:
    """Loss and accuracy after all rounds, bytes sent up, and the error of one coded difference."""
    lines, curves = [], {}
    for name, keys in CODECS.items():
        runs = [metrics_of({**FEDPAQ, **keys, "seed": seed}) for seed in seeds]
        bits, error = _of_one_difference(keys)
        sent = [list(accumulate(row["bytes_up"] / 1e6 for row in rows)) for rows in runs]
        curves[name] = [
            (fmean(one[i] for one in sent), fmean(rows[i]["loss"] for rows in runs)) for i in range(len(runs[0]))
        ]
        lines.append(
            [
                name,
                f"{bits:.2f}",
                f"{error:.4f}",
                f"{fmean(one[-1] for one in sent):.2f}",
                spread((rows[-1]["loss"] for rows in runs), scale=1, digits=3),
                spread(rows[-1]["accuracy"] for rows in runs),
            ]
        )
        print(" | ".join(lines[-1]), flush=True)
    if figure is not None:
        draw(curves, figure)
    heads = ["codec", "bits a coordinate", "‖Q(x) - x‖²/‖x‖²", "MB up", "test loss, last round", "accuracy"]
    return table(heads, lines, markdown=True)


def eden(seeds: Sequence[int]) -> str:
    """Bytes of a reply, loss and accuracy after all rounds."""
    lines = []
    for name, keys in OF_EDEN.items():
        runs = [metrics_of({**EDEN, **keys, "seed": seed}) for seed in seeds]
        sent = fmean(sum(row["bytes_up"] for row in rows) / sum(row["accepted"] for row in rows) for rows in runs)
        losses = spread((rows[-1]["loss"] for rows in runs), scale=1, digits=3)
        lines.append([name, f"{sent / 1e6:.3f}", losses, spread(rows[-1]["accuracy"] for rows in runs)])
        print(" | ".join(lines[-1]), flush=True)
    return table(["codec", "MB up a reply", "test loss, last round", "accuracy"], lines, markdown=True)


def _of_one_difference(keys: Keys) -> tuple[float, float]:
    """Bits a coordinate and relative squared error, for normal coordinates in tensors of the network's sizes."""
    network = resolve({**FEDPAQ, **keys}).network
    sizes = [prod(tensor.shape) for tensor in layout(network).tensors.values()]
    flat = torch.randn(sum(sizes), generator=torch_generator(1, 0, "server", "benchmark"))
    settings = {key.removeprefix("codec-"): value for key, value in keys.items() if key != "codec"}
    codec = codec_of(CodecSettings(str(keys.get("codec", "float32")), **settings))  # type: ignore[arg-type]
    array = codec.encode(flat, sizes, generator(1, 1, 0, "codec"), NOTHING)
    got = codec.decode(array, sizes, NOTHING).flat
    return 8 * len(array.data) / len(flat), float((got - flat).square().sum() / flat.square().sum())


def draw(curves: Mapping[str, Sequence[tuple[float, float]]], file: Path) -> None:
    """Draw test loss over megabytes sent up, one line per codec."""
    from matplotlib import colormaps

    shades = colormaps["viridis"]
    with picture(file, (6.4, 3.8)) as axis:
        for i, (name, points) in enumerate(curves.items()):
            axis.plot(*zip(*points, strict=True), color=shades(i / len(curves)), label=name, linewidth=1.4)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("MB sent up by all clients")
        axis.set_ylabel("test loss of the global network, nats")
        axis.legend(frameon=False, fontsize=8, ncols=2)
        plain(axis)


CLAIMS: dict[str, Callable[[Sequence[int]], str]] = {"pow-d": pow_d, "q-ffl": q_ffl, "fedpaq": fedpaq, "eden": eden}


def _run(options: Options) -> int:
    """Run, print, and write the tables."""
    for name in options.parts:
        text = f"Seeds {', '.join(map(str, options.seeds))}.\n\n{CLAIMS[name](options.seeds)}"
        print(f"\n{text}\n")
        if options.write:
            replace_part(DOCUMENT, name, text)
    return 0


TASK = Command(_run, parts=CLAIMS, defaults={"seeds": [1, 2, 3], "write": False})
