"""`flotilla export RUN --to peft`: a tier's adapter as peft loads it, in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor

from flotilla.serving.formats.runtime import CannotExport, write_whole
from flotilla.serving.load import CannotLoad, FinishedRun, following_only, open_run
from models.adapters.adapter import PAIR
from models.algebra.groups import RANK
from models.algebra.plans import Plan
from models.algebra.rates import without_group
from models.networks.bases import BASE
from models.networks.build import layout, submodel
from models.networks.peft_form import CONFIG, WEIGHTS, as_in_peft, names_in_peft, not_in_peft, peft_config
from models.networks.spec import NetworkSpec
from server_app.folder.model_file import MODEL


@dataclass(frozen=True, kw_only=True)
class PeftFolder:
    """What was written.

    Attributes:
        tier: whose adapter it is.
        folder: where it is.
        rank: of the pairs.
        bytes: of the tensors' file.
    """

    tier: str
    folder: Path
    rank: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.tier}  rank {self.rank}  {self.bytes:,} bytes  {self.folder}"


def export_peft(run: Path, tier: str, out: Path | None = None, *, allow: Iterable[str] = ()) -> list[PeftFolder]:
    """Write a folder with `adapter_model.safetensors` and `adapter_config.json` for one tier, or for every one.

    peft adds them to the module that the network was made of: its outputs are the tier's.

    Args:
        run: folder of a finished run with an adapter of low rank.
        tier: its name, or "all".
        out: folder of the folders; None: "export" in the run's.
        allow: import paths that may be followed, see `flotilla.load`.

    Raises:
        CannotLoad: as `load`.
        CannotExport: the run had no such adapter, the tier is cut in depth, or a convolution with a pair has another
            geometry than peft's pair beside it would have.
        OSError: a file cannot be written.
    """
    with following_only(allow, run):
        opened = open_run(run)
        spec = NetworkSpec.from_json(opened.records.network)
        if spec.adapter is None or not spec.adapter.rank:
            raise CannotExport('--to peft: for a run with a low-rank adapter, such as adapter = "lora:16"')
        if spec.adapter.merges:
            raise CannotExport("--to peft: of this run the products are in the weights; any other form has them")
        if spec.adapter.form != PAIR:
            raise CannotExport(
                "--to peft: for pairs of factors, which this run has not trained; --to onnx has products"
            )
        names = opened.tiers if tier == "all" else [tier]
        folder = run / "export" if out is None else out
        return [_written(opened, spec, name, folder / f"peft-{name}") for name in names]


def _written(run: FinishedRun, spec: NetworkSpec, tier: str, folder: Path) -> PeftFolder:
    if tier not in run.records.tiers:
        raise CannotLoad(f"{run.path}: no tier {tier!r}: it has {', '.join(run.tiers)}, and global")
    plan = Plan.from_json(json.dumps(run.records.tiers[tier]["plan"]))
    part, pairs = submodel(spec, plan), layout(spec).pairs
    if len(part) < len(layout(spec).tensors):
        raise CannotExport(f"--to peft: tier {tier!r} is cut in depth, which peft's form does not say")
    if spec.adapter is not None and spec.adapter.cut and without_group(plan.rate, RANK) != 1:
        raise CannotExport(f"--to peft: tier {tier!r} holds a part of the base, which peft's form does not say")
    state = part.gather(load_file(run.path / MODEL))
    size = write_peft(folder, spec, state, str((run.path / BASE).resolve()))
    return PeftFolder(tier=tier, folder=folder, rank=part[pairs[0].a].local_shape[0], bytes=size)


def write_peft(folder: Path, spec: NetworkSpec, state: Mapping[str, Tensor], base: str) -> int:
    """Write both files for a part of any rank; return the bytes of the tensors' one.

    Args:
        folder: where they go.
        spec: of the adapted network.
        state: the part's tensors, by name.
        base: what `base_model_name_or_path` is to say.

    Raises:
        CannotExport: a convolution has another geometry than peft's pair beside it would have.
    """
    if why := not_in_peft(spec):
        raise CannotExport(f"--to peft: {why}")
    names, rank = names_in_peft(spec), state[layout(spec).pairs[0].a].shape[0]
    theirs = as_in_peft(spec, {name: tensor.contiguous() for name, tensor in state.items()})
    content = save({names[name]: tensor for name, tensor in theirs.items()}, {"format": "pt"})
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(json.dumps(peft_config(spec, rank, base), indent=2).encode(), folder / CONFIG)
    write_whole(content, folder / WEIGHTS)
    return len(content)
