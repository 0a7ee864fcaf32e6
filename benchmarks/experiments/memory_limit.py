"""Block-wise training beside DepthFL, where no device has the memory to train the whole network.

Every device has half of what the whole takes, by the cost model (`models.cost.training_bytes`). Block-wise training
trains every stage, one after the other, on frozen ones before it; DepthFL trains the deepest part that fits; all
devices hold the widest leading part that fits, in tenths; and the whole network without a limit stands beside them as
the ceiling. Same pictures, devices, rounds and steps for all; a constant learning rate, since one that falls over the
run would leave little of it to the stage that comes last. DepthFL's exits are plain: behind its bottlenecks not even
one stage fits. Runs are in runs/memory-limit/ and not repeated once they have ended.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import fmean

from benchmarks.document import DOCS, replace_part, table
from benchmarks.experiments.foreign import TEST, TRAIN, part
from benchmarks.job import flotilla_run
from benchmarks.task import Command, Options
from data.settings import DataSettings
from models.algebra.plans import Plan
from models.cost import training_bytes
from models.networks.build import layout
from models.networks.complete import completed
from models.networks.spec import NetworkSpec

DOCUMENT = DOCS / "adapters.md"
WIDTHS, BLOCKS, BATCH = (8, 16, 32, 64), (1, 2, 2, 2), 32
ROUNDS, STEPS, CLIENTS = 12, 40, 4
DATASET, INPUT = "fashion-mnist", (1, 28, 28)
LIMIT = Fraction(1, 2)
SETTINGS = (
    'model="resnet" widths="8, 16, 32, 64" blocks="1, 2, 2, 2" norm="group" scaler="off" num-clients={clients}'
    ' fraction-train=0.5 partition="iid" local-steps={steps} batch-size={batch} learning-rate=0.1'
    ' learning-rate-schedule="constant" num-server-rounds={rounds} evaluate-every=4 seed={seed} device="cpu"'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A method, and the largest step that a device takes with it.

    Attributes:
        name: what the table calls it.
        keys: of the run.
        memory: bytes of that step.
    """

    name: str
    keys: str
    memory: int


def ways() -> list[Way]:
    """What is compared; the first has no limit.

    Raises:
        ValueError: something does not fit within the limit.
    """
    last = completed(NetworkSpec("resnet", INPUT, 10, widths=WIDTHS, blocks=BLOCKS, norm="group"))
    exits = completed(NetworkSpec("resnet", INPUT, 10, widths=WIDTHS, blocks=BLOCKS, norm="group", exits="plain"))

    def needed(spec: NetworkSpec, plan: Plan) -> int:
        return training_bytes(spec, plan, BATCH)

    depths = sorted(layout(exits).exits)
    full = needed(last, Plan())
    limit = LIMIT * full
    stages = [needed(exits, Plan(depth=depth, own_exit=True, frozen=depth - 1)) for depth in depths]
    if max(stages) > limit:
        raise ValueError(f"a stage needs {max(stages)} bytes, the limit is {limit}")
    depth = max(one for one in depths if needed(exits, Plan(depth=one)) <= limit)
    rate = max(one for one in (Fraction(tenth, 10) for tenth in range(1, 11)) if needed(last, Plan(one)) <= limit)
    deepest = needed(exits, Plan(depth=depth))
    return [
        Way(name="everything, no limit", keys='method="fedavg" tiers="a:1"', memory=full),
        Way(name="block-wise, all stages", keys='method="blockwise" tiers="a:1"', memory=max(stages)),
        Way(
            name=f"DepthFL, {depth} of {len(depths)} stages",
            keys=f'method="depthfl" exits="plain" tiers="a:1@{depth}"',
            memory=deepest,
        ),
        Way(
            name=f"leading {rate} of every width",
            keys=f'method="smallest" tiers="a:{rate}"',
            memory=needed(last, Plan(rate)),
        ),
    ]


def accuracies(folder: Path) -> tuple[float, float]:
    """Of the network that a run trains altogether: in the last round, and in the best one."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found = [row["accuracy"] for row in rows if row.get("accuracy") is not None]
    return found[-1], max(found)


def finished(folder: Path) -> bool:
    """Whether a run has ended; one that was stopped is in the way of a new one, which says so."""
    summary = folder / "summary.json"
    return summary.is_file() and json.loads(summary.read_text(encoding="utf-8"))["status"] == "finished"


HEADS = ["trained", "largest step, MiB", "of all", "last round", "by seed", "best round"]


def cells(way: Way, full: int, found: Sequence[tuple[float, float]]) -> list[str]:
    """A line of the table; accuracies in percent."""
    last, best = [one[0] for one in found], [one[1] for one in found]
    return [
        way.name,
        f"{way.memory / 2**20:.1f}",
        f"{way.memory / full:.2f}",
        f"{100 * fmean(last):.1f} %",
        ", ".join(f"{100 * one:.1f}" for one in last),
        f"{100 * fmean(best):.1f} %",
    ]


def _run(options: Options) -> int:
    """Run every way with every seed, some side by side, and print the table; finished runs are not repeated."""
    rounds, compared = options.rounds or ROUNDS, ways()
    with tempfile.TemporaryDirectory(prefix="memory-limit-") as folder:
        file = part(Path(folder), options.data_root or DataSettings(dataset=DATASET).data_root, DATASET)
        data = f'dataset="npz:{file.name}" data-root="{file.parent}"'

        def trained(way: Way, seed: int) -> tuple[float, float]:
            run = options.root.absolute() / "runs" / "memory-limit" / f"{compared.index(way)}-{rounds}-{seed}"
            keys = SETTINGS.format(clients=CLIENTS, steps=STEPS, batch=BATCH, rounds=rounds, seed=seed)
            if not finished(run):
                flotilla_run(run, f"{data} {way.keys} {keys}", "--engine", "local", "--processes", "0")
            found = accuracies(run)
            print(f"{way.name}, seed {seed}: {found[0]:.1%}, at best {found[1]:.1%}", flush=True)
            return found

        jobs = [(way, seed) for seed in options.seeds for way in compared]
        with ThreadPoolExecutor(options.processes or 1) as pool:
            found = dict(zip(jobs, pool.map(lambda job: trained(*job), jobs), strict=True))
    full = compared[0].memory
    lines = [cells(way, full, [found[way, seed] for seed in options.seeds]) for way in compared]
    said = (
        f"{rounds} rounds of {CLIENTS // 2} of {CLIENTS} devices, {STEPS} steps of {BATCH} pictures each; {TRAIN:,}"
        f" pictures of Fashion-MNIST, {TEST:,} to test; means of seeds {', '.join(map(str, options.seeds))}."
    )
    print(f"\n{said}\n{table(HEADS, lines)}")
    if options.write:
        replace_part(DOCUMENT, "memory limit", f"{said}\n\n{table(HEADS, lines, markdown=True)}")
    return 0


TASK = Command(
    _run, defaults={"seeds": (1, 2, 3), "rounds": 0, "processes": 1, "data_root": "", "root": Path(), "write": False}
)
