"""`flotilla.load`: a tier's network from a finished run, or from a file that `flotilla export` wrote.

Both are read as data: safetensors and JSON, held against the hashes that the run wrote. A network that is not built in
is code of yours; it is imported only from where `allow` says.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import WARNING, getLogger
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from data import InputFacts
from flotilla.serving.model import ModelCard, TierModel
from flotilla.serving.tier_file import read_tier_file
from models.algebra.plans import Plan
from models.errors import SettingError
from models.networks.build import layout, submodel
from models.networks.merged import merged
from models.networks.spec import NetworkSpec
from models.registry import following
from models.variants.importance import masked
from server_app.base import read_base
from server_app.folder.model_file import MODEL
from server_app.folder.run_folder import CONFIG, SUMMARY
from server_app.folder.staged_file import sha256_of
from server_app.folder.tiers_file import TIERS, OtherFormat, TierRecords, read_tiers


class CannotLoad(ValueError):
    """No network can be made of this; the text says why, in one line."""


class NoStatistics(CannotLoad):
    """A tier cannot be used, and others of the run may be."""


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run folder as it was when the run ended.

    Attributes:
        path: of the folder.
        summary: of `summary.json`.
        records: of `tiers.safetensors`.
    """

    path: Path
    summary: dict[str, Any]
    records: TierRecords

    @property
    def tiers(self) -> list[str]:
        """Names of the tiers, widest first, without "global"."""
        return [name for name in self.records.tiers if name != "global"]


def load(run: str | Path, tier: str = "global", *, cluster: int | None = None, allow: Iterable[str] = ()) -> TierModel:
    """Make a tier's network, in evaluation mode, that repeats the accuracy that the run reported of it.

    Args:
        run: folder of a finished run, such as "runs/latest", or a .safetensors file that `flotilla export` wrote.
        tier: its name; "global" is the network that the run trained altogether. A file has one tier only.
        cluster: number of a cluster, where the run had several; None: the one that the run's results are of.
        allow: import paths that may be followed if the network is not built in, such as "my_lab.*"; this runs the code.

    Raises:
        CannotLoad: no such tier or cluster, the run has not finished, what it left is damaged or of another version.
    """
    path = Path(run).expanduser()
    with following_only(allow, path):
        if path.is_file():
            return _of_file(path, tier)
        return tier_of(open_run(path), tier, cluster)


@contextmanager
def following_only(allow: Iterable[str], path: Path) -> Iterator[None]:
    """Follow the import paths that `allow` has, as `following` does, for what is read of a run or a file.

    Raises:
        CannotLoad: something is named that is not to be followed or that there is not; the text says what to allow.
    """
    with following(allow):
        try:
            yield
        except SettingError as error:
            if error.key == "model":
                package = str(error.value).partition(":")[0].partition(".")[0]
                raise CannotLoad(
                    f'{path}: its network is {error.value!r}, which is code: load(..., allow=["{package}.*"]) or '
                    f"--allow '{package}.*' imports it, if you trust it and it can be imported here"
                ) from None
            raise CannotLoad(f"{path}: {error}") from None


def open_run(path: Path) -> FinishedRun:
    """Read a finished run's folder.

    Raises:
        CannotLoad: it is none, or it is damaged or of another version.
    """
    if not (path / CONFIG).is_file():
        raise CannotLoad(f"{path}: no run folder: it has no {CONFIG}")
    if not (path / SUMMARY).is_file():
        raise CannotLoad(f"{path}: the run has not finished: it has no {SUMMARY}")
    try:
        summary = json.loads((path / SUMMARY).read_text(encoding="utf-8"))
        status, model = summary["status"], summary["model"]
        if status == "finished":
            held, tiers = model["sha256"], model.get("tiers_sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CannotLoad(f"{path}: {SUMMARY} is damaged ({error})") from None
    if status != "finished":
        rounds, again = summary.get("rounds"), f"flotilla run --resume {path}"
        raise CannotLoad(f"{path}: the run has not finished: {status} after round {rounds} (go on with it: {again})")
    if tiers is None:
        raise CannotLoad(f"{path}: another version of Flotilla wrote it, one that kept no {TIERS}")
    for name, sha256 in ((MODEL, held), (TIERS, tiers)):
        if not (path / name).is_file():
            raise CannotLoad(f"{path}: {name} is missing")
        if sha256_of(path / name) != sha256:
            raise CannotLoad(f"{path}: {name} is damaged: it has another SHA-256 than {SUMMARY} says")
    try:
        records, of = read_tiers(path / TIERS)
    except OtherFormat as error:
        raise CannotLoad(f"{path}: another version of Flotilla wrote {TIERS}: {error}") from None
    except (ValueError, OSError) as error:
        raise CannotLoad(f"{path}: {TIERS}: {error}") from None
    if of != held:
        raise CannotLoad(f"{path}: {TIERS} belongs to another {MODEL}")
    return FinishedRun(path=path, summary=summary, records=records)


def tier_of(run: FinishedRun, tier: str, cluster: int | None = None) -> TierModel:
    """Make a tier's network of a run.

    Raises:
        CannotLoad: no such tier or cluster, or no statistics of it.
        SettingError: the network is not built in and must not be imported.
    """
    records, path = run.records, run.path
    if tier not in records.tiers:
        raise CannotLoad(f"{path}: no tier {tier!r}: it has {', '.join(run.tiers)}, and global")
    main = cluster is None or cluster == records.main
    if cluster is not None and cluster not in records.clusters:
        has = f"it has {', '.join(map(str, records.clusters))}" if records.clusters else "it has no clusters"
        raise CannotLoad(f"{path}: no cluster {cluster}: {has}")
    entry = records.tiers[tier]
    prefix = "" if main else f"cluster{cluster}/"
    moments = None if entry["moments"] is None else records.moments.get(f"{prefix}{entry['moments']}")
    if entry["moments"] is not None and moments is None:
        raise NoStatistics(
            f"{path}: tier {tier!r} cannot be used: no node that can hold it gave statistics for its batch norm, so "
            "the run reports no accuracy of it either"
        )
    try:
        spec, plan = NetworkSpec.from_json(records.network), Plan.from_json(json.dumps(entry["plan"]))
        read_base(spec, path)
        whole = load_file(path / MODEL)
        state = {name: whole[prefix + name] for name in layout(spec).tensors}
        part = masked(submodel(spec, plan), state, layout(spec), plan.keep).gather(state)
        if spec.adapter is not None:  # what is used or exported is an ordinary network
            spec, plan, part = merged(spec, plan, part)
        card = ModelCard(
            tier=tier,
            network=spec,
            plan=plan,
            noise_share=records.noise_share,
            inputs=InputFacts.from_json(records.inputs),
            round=records.round,
            accuracy=_reported(run.summary, tier) if main else None,
            moments=moments,
        )
        return TierModel(card, part)
    except SettingError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CannotLoad(f"{path}: tier {tier!r} cannot be made: {said}") from None


def to_export(
    run: Path, tier: str, out: Path | None, cluster: int | None = None
) -> tuple[FinishedRun, list[TierModel], Path]:
    """Open a run, make the networks of one tier or of "all", and say which folder their files go to.

    Of all tiers one without statistics is left out, with a warning that says why.

    Raises:
        CannotLoad, SettingError: as `open_run` and `tier_of`; of all tiers, none can be used.
    """
    opened, models, left_out = open_run(run), list[TierModel](), list[NoStatistics]()
    for name in opened.tiers if tier == "all" else [tier]:
        try:
            models.append(tier_of(opened, name, cluster))
        except NoStatistics as error:
            left_out.append(error)
    if left_out and not models:
        raise left_out[0]
    for one in left_out:
        getLogger("flwr").log(WARNING, "%s", one)
    return opened, models, run / "export" if out is None else out


def _reported(summary: dict[str, Any], tier: str) -> float | None:
    last = summary["last"]
    found: float | None = last["accuracy"] if tier == "global" else last["tiers"][tier]["accuracy"]
    return found


def _of_file(path: Path, tier: str) -> TierModel:
    try:
        card, state = read_tier_file(path)
    except OtherFormat as error:
        raise CannotLoad(f"{path}: another version of Flotilla wrote it: {error}") from None
    except (ValueError, OSError) as error:
        raise CannotLoad(f"{path}: no file of `flotilla export`: {error}") from None
    if tier not in ("global", card.tier):
        raise CannotLoad(f"{path}: no tier {tier!r}: it has {card.tier}")
    try:
        return TierModel(card, state)
    except SettingError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CannotLoad(f"{path}: damaged: {said}") from None
