"""Whether clusters find planted groups.

Clients whose images are turned (IFCA) or whose labels are permuted (CFL), clients of one distribution, and what CFL's
tests see of each. Digits needs nothing; Fashion-MNIST is added where `--data-root` has it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.document import DOCS, replace_part, table
from benchmarks.experiments.runs import Keys, metrics_of, spread
from benchmarks.task import Command, Options
from data.synthetic_groups import group_of
from protocol import Scalar, keep_large_buffers

DOCUMENT = DOCS / "clusters.md"

COMMON: Keys = {
    "method": "fedavg",
    "tiers": "a:1",
    "model": "mlp",
    "batch-size": 16,
    "local-epochs": 3,
    "num-clients": 24,
    "local-test-fraction": 0.2,
    "fraction-evaluate": 1.0,
    "learning-rate-schedule": "constant",
    "evaluate-every": 1000,
    "checkpoint-every": 1000,
    "num-server-rounds": 20,
    "device": "cpu",
}
DATA: dict[str, Keys] = {
    "digits": {"dataset": "digits", "widths": "64, 32"},
    "fashion-mnist": {
        "dataset": "fashion-mnist",
        "widths": "100",
        "num-clients": 40,
        "local-epochs": 1,
        "batch-size": 50,
        "num-server-rounds": 15,
    },
}
IFCA: Keys = {"clustering": "ifca", "ifca-clusters": 4}
BALANCED: Keys = {**IFCA, "ifca-restarts": 20, "ifca-least-share": 0.15}
ROTATIONS: dict[str, Keys] = {
    "no clusters": {},
    "IFCA": IFCA,
    "IFCA, balanced start": BALANCED,
    "IFCA, balanced start, shared trunk": {**BALANCED, "ifca-shared": True},
}
CFL: Keys = {"clustering": "cfl"}
PERMUTED = ("label-permutations:2", "label-permutations:4", "")
ALWAYS_TESTED: Keys = {**CFL, "cfl-mean-norm": 1e9, "cfl-largest-norm": 0.0, "cfl-gamma": 1.0}  # and never cut
CURVES: dict[str, Keys] = {
    "two label permutations": {"synthetic-groups": "label-permutations:2"},
    "four label permutations": {"synthetic-groups": "label-permutations:4"},
    "two rotations": {"synthetic-groups": "rotations:2"},
    "IID": {},
    "Dirichlet 0.5": {"partition": "dirichlet"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a run found.

    Attributes:
        accuracy: mean over the clients' own test examples, each with its cluster, in the last round.
        optimistic: the same if a client may choose its cluster by its test examples; None if it cannot choose.
        purity: share of the clients that are in a cluster where most are of their group.
        exact: whether clusters and groups are the same.
        cuts: rounds in which a cluster was cut, one entry a cut.
        loss: mean training loss in the last round, by which the paper chooses among restarts.
    """

    accuracy: float
    optimistic: float | None
    purity: float
    exact: bool
    cuts: tuple[int, ...]
    loss: float


def purity(assignments: Iterable[Sequence[int]], planted: str) -> tuple[float, bool]:
    """Share of the clients in a cluster where most are of their group; whether clusters are groups."""
    counts = [Counter(group_of(planted, node) for node in ids) for ids in assignments if ids]
    total = sum(count.total() for count in counts)
    whole = [set(count) for count in counts]
    groups = set().union(*whole)
    exact = all(len(one) == 1 for one in whole) and len(whole) == len(groups)
    return sum(max(count.values()) for count in counts) / total, exact


def found(keys: Mapping[str, Scalar]) -> Found:
    """Run, and see what came of it."""
    rows = metrics_of(keys)
    last = rows[-1].get("clusters", {})
    assignments = last.get("assignments") or {"0": rows[-1]["selected"]}
    share, exact = purity(assignments.values(), str(keys.get("synthetic-groups", "")))
    local = last.get("local", {}).values()
    optimistic = [one["accuracy_test_identity"] * one["nodes"] for one in local if "accuracy_test_identity" in one]
    cuts = [row["round"] for row in rows for _ in row.get("clusters", {}).get("splits", {})]
    return Found(
        accuracy=rows[-1]["local"]["accuracy"],
        optimistic=sum(optimistic) / sum(one["nodes"] for one in local) if optimistic else None,
        purity=share,
        exact=exact,
        cuts=tuple(cuts),
        loss=rows[-1]["train_loss"],
    )


def rotations(data: Mapping[str, Keys], seeds: Sequence[int]) -> str:
    """IFCA on four rotations, as Markdown."""
    lines = []
    for name, own in data.items():
        for what, keys in ROTATIONS.items():
            runs = [found({**COMMON, **own, **keys, "synthetic-groups": "rotations:4", "seed": seed}) for seed in seeds]
            optimistic = [one.optimistic for one in runs if one.optimistic is not None]
            hits = f"{sum(one.exact for one in runs)} of {len(runs)}" if keys else "-"
            best = "-" if not keys else "yes" if min(runs, key=lambda one: one.loss).exact else "no"
            pure, local = spread(one.purity for one in runs), spread(one.accuracy for one in runs)
            lines.append([name, what, hits, best, pure, local, spread(optimistic) if optimistic else "-"])
            print(" | ".join(lines[-1]), flush=True)
    heads = [
        "data",
        "",
        "seeds with the four groups",
        "lowest training loss has them",
        "purity",
        "local accuracy",
        "by test identity",
    ]
    return table(heads, lines, markdown=True)


def permutations(data: Mapping[str, Keys], seeds: Sequence[int]) -> str:
    """CFL on permuted labels and on IID clients, as Markdown."""
    lines = []
    for name, own in data.items():
        for planted in PERMUTED:
            plain = [found({**COMMON, **own, "synthetic-groups": planted, "seed": seed}) for seed in seeds]
            cut = [found({**COMMON, **own, **CFL, "synthetic-groups": planted, "seed": seed}) for seed in seeds]
            rounds = "; ".join(", ".join(map(str, one.cuts)) or "none" for one in cut)
            hits = f"{sum(one.exact for one in cut)} of {len(cut)}"
            lines.append(
                [
                    name,
                    planted or "IID",
                    hits,
                    rounds,
                    spread(one.purity for one in cut),
                    spread(one.accuracy for one in plain),
                    spread(one.accuracy for one in cut),
                ]
            )
            print(" | ".join(lines[-1]), flush=True)
    heads = [
        "data",
        "synthetic-groups",
        "seeds with the groups",
        "rounds of the cuts, by seed",
        "purity",
        "local accuracy without clusters",
        "with CFL",
    ]
    return table(heads, lines, markdown=True)


def curves(seed: int = 1) -> str:
    """What CFL's tests see in rounds 5, 10 and 20 when nothing is ever cut, as Markdown."""
    lines = []
    for what, keys in CURVES.items():
        rows = metrics_of({**COMMON, **DATA["digits"], **ALWAYS_TESTED, **keys, "seed": seed})
        norms = [rows[number - 1]["clusters"]["norms"]["0"] for number in (5, 10, 20)]
        cells = [" / ".join(f"{one[key]:.2f}" for one in norms) for key in ("mean", "largest", "cross", "intra")]
        lines.append([what, *cells])
        print(" | ".join(lines[-1]), flush=True)
    return table(["clients", "‖mean Δ‖", "max ‖Δ‖", "α_cross^max", "α_intra^min"], lines, markdown=True)


def _run(options: Options) -> int:
    """Run, print, and write the tables."""
    keep_large_buffers()
    data = {
        name: {**keys, "data-root": options.data_root}
        for name, keys in DATA.items()
        if name == "digits" or options.data_root
    }
    makers: dict[str, Callable[[], str]] = {
        "curves": curves,
        "permutations": lambda: permutations(data, options.seeds),
        "rotations": lambda: rotations(data, options.seeds),
    }
    for name in options.parts:
        text = makers[name]()
        print(f"\n{text}")
        if options.write:
            replace_part(DOCUMENT, name, text)
    return 0


TASK = Command(
    _run,
    parts=("curves", "permutations", "rotations"),
    defaults={"data_root": "", "seeds": [1, 2, 3, 4, 5], "write": False},
)
