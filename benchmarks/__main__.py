"""Everything that measures, by one command: `python -m benchmarks [FOLDER [NAME …] [OPTION …]]`.

Without arguments it lists what there is.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from benchmarks.task import Command

# Folder → name → (module, what it is). Modules are imported when they are run: a list of names needs no PyTorch.
TASKS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "bench": {
        "averaging": ("run", "sums and scatters of a round against memory bandwidth and against index grids"),
        "codecs": ("run", "encoding and decoding against a copy, and their sizes and errors"),
        "memory": ("run", "what the server grows by, against the state"),
        "clients": ("run", "a million clients in the local engine against a thousand (docs/scale.md)"),
        "loading": ("run", "a shard of 100,000 small pictures against reading the file's bytes"),
        "training": ("run", "a client's round against its bare steps"),
        "rounds": ("run", "a whole round, evaluation and statistics too, against an earlier build"),
        "evaluation": ("run", "the scores of all tiers together against a pass for each tier"),
        "pfl": ("run", "a whole simulated round against the bare steps in as many processes"),
        "engine": ("run", "a round under Ray against Flower's own overhead"),
        "selection": ("run", "choosing among 100,000 nodes against one pass over them"),
        "exported": ("run", "one example by a tier's ONNX file against eager PyTorch"),
        "foreign": ("run", "other people's networks: a step against the same by hand, a trace against its export"),
        "ranks": ("run", "averaging products of low-rank factors against averaging the factors"),
        "startup": ("run", "from the command to the first round"),
        "deployed": ("run", "a round on real SuperNodes against an earlier build (docs/deploy.md)"),
        "sweep": ("run", "twelve small runs side by side against one after another"),
    },
    "peers": {
        "cifar10": ("run", "the size of pfl-research's CIFAR-10 benchmark (docs/peers.md)"),
        "digits": ("run", "the size of the default job, the full network on every client (docs/peers.md)"),
    },
    "experiments": {
        "width": ("results", "like for like: methods that differ in width (docs/results.md)"),
        "depth": ("results", "like for like: methods that differ in depth (docs/results.md)"),
        "text": ("results", "like for like: methods on texts (docs/results.md)"),
        "robustness": ("robustness", "Split-Mix between accurate and robust (docs/results.md)"),
        "claims": ("claims", "what papers say of selection, fairness and compression, tried (docs/claims.md)"),
        "clusters": ("clusters", "do clusters find planted groups? (docs/clusters.md)"),
        "fleet": ("fleet", "measured tiers against fixed proportions (docs/fleet.md)"),
        "waiting": ("waiting", "rounds that wait, ask more than they need, or are buffered (docs/fleet.md)"),
        "study": ("study.study", "which exponents of the utility rule pay, and a regression (docs/study.md)"),
        "lies": ("lies", "one node of ten that lies in each number it says (docs/lies.md)"),
        "foreign": ("foreign", "other people's networks, trained by four methods (docs/networks.md)"),
        "pretrain": (
            "pretrain",
            "a small base, trained on half of a data set and adapted to the other (docs/adapters.md)",
        ),
        "bases": ("bases", "a base in fewer bits, or a part of it: bytes, memory, accuracy (docs/adapters.md)"),
        "memory-limit": ("memory_limit", "block-wise training beside DepthFL in half of the memory (docs/adapters.md)"),
        "ranks": ("ranks", "like for like: rules for adapters of unlike ranks, from one base (docs/ranks.md)"),
        "evidence": ("evidence.command", "all methods, three seeds, also under measured limits (docs/evidence.md)"),
        "evidence-setting": (
            "setting.command",
            "HeteroFL in its setting, beside its authors' code (docs/evidence.md)",
        ),
        "flower-runs": ("flower_runs", "everything that can be configured, once, through Flower itself (docs/runs.md)"),
    },
    "probes": {
        "hashes": ("hashes", "final models of small runs as hashes, to compare two checkouts"),
        "differences": ("differences", "our methods against transcriptions of their authors' rules (docs/parity.md)"),
        "house": ("house", "the code in figures: files per room, long files, keys, cycles"),
        "load": ("load", "thousands of nodes: memory and seconds (docs/deploy.md)"),
        "trace": ("trace", "one request and reply: calls, files, switches between them"),
        "zoo": ("zoo", "other people's networks: axes, proof, what tiers hold (docs/networks.md)"),
        "board": ("board", "a device of 1 GB with 5,000 pictures: memory, and what is decoded (docs/data.md)"),
        "exports": ("exports", "every tier of two methods as ONNX files, float and int8 (docs/models-out.md)"),
        "sources": (
            "sources",
            "tables, texts, pictures by configuration alone: result, seconds, memory (docs/data.md)",
        ),
        "phases": ("phases", "where the seconds of a deployed round go (docs/deploy.md)"),
        "rounding": ("rounding", "float32's rounding by each way of training, against float64 (docs/results.md)"),
        "secure": ("secure", "what secure aggregation costs in bytes and seconds (docs/deploy.md)"),
        "superlink": ("superlink", "what one SuperLink bears, by number of deployed nodes (docs/scale.md)"),
        "stragglers": ("stragglers", "what late and silent nodes cost, and what over-selection saves (docs/deploy.md)"),
    },
}
SEVERAL = frozenset({"bench", "peers"})  # folders whose tasks are parts of one, and give one table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line names, or list what there is; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = "python -m benchmarks"
    if not given or given[0] in ("-h", "--help"):
        print(listing())
        return 0
    folder = given.pop(0)
    if folder not in TASKS:
        return _refuse(f"there is no folder {folder!r}; there are {', '.join(TASKS)}")
    if folder in SEVERAL:
        return _task(folder, "run")(given, f"{command} {folder}", f"{import_module(f'benchmarks.{folder}').__doc__}")
    if not given or given[0] not in TASKS[folder]:
        asked = repr(given[0]) if given else "nothing"
        return _refuse(f"{asked} is not in {folder}; there are {', '.join(TASKS[folder])}")
    name = given.pop(0)
    module, about = TASKS[folder][name]
    return _task(folder, module, name)(given, f"{command} {folder} {name}", about)


def listing() -> str:
    """Every task on a line of its own, by folder."""
    lines = [(__doc__ or "").partition("\n")[0]]
    for folder, tasks in TASKS.items():
        lines += ["", f"{folder}:", *(f"  {name:<12} {about}" for name, (_, about) in tasks.items())]
    return "\n".join(lines)


def _task(folder: str, module: str, name: str = "") -> Command:
    """The task of a module: `TASK`, or the one of this name among `TASKS`."""
    found = import_module(f"benchmarks.{folder}.{module}")
    task: Command = found.TASKS[name] if hasattr(found, "TASKS") else found.TASK
    return task


def _refuse(line: str) -> int:
    print(f"benchmarks: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
