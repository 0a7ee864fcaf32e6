"""`tiers.safetensors` of a run folder: what makes each tier's network of the global state beside it.

Its tensors are the pooled moments of static batch norm (float64), as "moments/<tier>"; its header's metadata holds one
JSON text, "flotilla", with the network, every tier's part, the inputs and classes. With `model.safetensors`, whose hash
it names, that is all that evaluation used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from server_app.folder.tensor_file import serialised

TIERS = "tiers.safetensors"
FORMAT = 1
KEY = "flotilla"  # of the header's metadata
MOMENTS = "moments/"


class OtherFormat(ValueError):
    """A file that another version of Flotilla wrote."""


@dataclass(frozen=True, kw_only=True)
class TierRecords:
    """What evaluation used in a round.

    Attributes:
        round: its number.
        network: the spec of the whole network, as `NetworkSpec.to_json` writes it.
        noise_share: share of the noise norms where norms are dual.
        tiers: by name, "global" among them: "rate" and "depth" as the settings have them, "plan" of the part,
            and "moments", the name of those that it was evaluated with, null if it needs none. Those of clusters beside
            the main one are under "cluster<number>/<name>".
        inputs: what inputs and labels are, as `data.InputFacts.to_json` writes it.
        main: the cluster that results are of; None where there are no clusters.
        clusters: numbers of all clusters.
        moments: pooled moments by name.
    """

    round: int
    network: str
    noise_share: float
    tiers: Mapping[str, Mapping[str, Any]]
    inputs: str
    main: int | None = None
    clusters: tuple[int, ...] = ()
    moments: Mapping[str, Tensor] = field(default_factory=dict)

    def serialised(self, model: str) -> Iterable[bytes | memoryview]:
        """The file, piece by piece.

        Args:
            model: SHA-256 of the state's file.
        """
        told = {
            "format": FORMAT,
            "model": model,
            "round": self.round,
            "network": json.loads(self.network),
            "noise_share": self.noise_share,
            "tiers": {name: dict(tier) for name, tier in self.tiers.items()},
            "inputs": json.loads(self.inputs),
            "main": self.main,
            "clusters": list(self.clusters),
        }
        moments = {MOMENTS + name: tensor for name, tensor in self.moments.items()}
        return serialised(moments, {KEY: json.dumps(told, ensure_ascii=False)})


def read_tiers(file: Path) -> tuple[TierRecords, str]:
    """Read a file.

    Returns:
        What it holds, and the SHA-256 of the state that it belongs to.

    Raises:
        OtherFormat: it is of another version.
        ValueError: it is damaged.
        OSError: it cannot be read.
    """
    told, tensors = read_described(file)
    try:
        records = TierRecords(
            round=int(told["round"]),
            network=json.dumps(told["network"]),
            noise_share=float(told["noise_share"]),
            tiers={str(name): dict(tier) for name, tier in told["tiers"].items()},
            inputs=json.dumps(told["inputs"]),
            main=told["main"],
            clusters=tuple(map(int, told["clusters"])),
            moments={name.removeprefix(MOMENTS): tensor for name, tensor in tensors.items()},
        )
        return records, str(told["model"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"damaged ({error!r})") from None


def read_described(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a safetensors file that describes itself in its header: the JSON, and the tensors.

    Raises:
        OtherFormat, ValueError, OSError: as `read_tiers`.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no file {file.name}")
    try:
        with safe_open(file, framework="pt") as opened:
            told = json.loads((opened.metadata() or {}).get(KEY, ""))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"damaged ({' '.join(str(error).split())})") from None
    if not isinstance(told, dict) or "format" not in told:
        raise ValueError("damaged (no format)")
    if told["format"] != FORMAT:
        raise OtherFormat(f"format {told['format']}, and this version of Flotilla reads format {FORMAT}")
    return told, tensors
