"""The folder of a run that begins or goes on, with what is known before its first round.

`holdings.json` says who holds what: of every layer its size and the share of it that each tier keeps; the network's
axes and what every tier's part costs; and, where clients divide one data set among themselves, how many examples of
which class each of them has. Where devices own their data nobody asks them for that, so it is not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data import DataSettings, InputFacts, load, shards
from models.losses import CLASSIFICATION
from models.networks.build import submodel
from server_app.config.resolve import RunConfig
from server_app.folder.files import replace_text
from server_app.folder.run_folder import CONFIG, HOLDINGS, RunFolder
from server_app.inspection import Part, inspected
from server_app.own_code import own_code, warn_of_changes
from server_app.tier_records import GLOBAL, kept_plans
from server_app.training_ways import training_ways
from strategies import FlowerStrategy

_MOST_LINES = 200  # axes, stages and reasons; the command `inspect` lists all
_MOST_CLIENTS = 200  # whose labels are counted; a page shows fewer


def opened(config: RunConfig, strategy: FlowerStrategy, facts: InputFacts) -> RunFolder:
    """The run's folder: a new one, or that of the run to resume.

    Raises:
        SettingError: it cannot be used, or the run to resume is another one.
    """
    trained, code = training_ways(strategy), own_code(config.flat)
    if config.resume:
        folder = RunFolder.reopen(config.folder, config.flat, config.free, trained)
        warn_of_changes(json.loads((folder.path / CONFIG).read_text(encoding="utf-8")).get("code", {}), code)
    else:
        folder = RunFolder.create(config.folder)
        folder.write_config(config.flat, trained, code)
    config.keep_inputs(folder.path)
    known = {**_layers(strategy), "network": network_of(strategy), **_labels(config.data, facts)}
    _save_holdings(folder.path, known)
    return folder


def _save_holdings(folder: Path, told: Mapping[str, Any]) -> None:
    replace_text(folder / HOLDINGS, json.dumps(told, ensure_ascii=False) + "\n")


def _layers(strategy: FlowerStrategy) -> dict[str, Any]:
    """Of every layer its coordinates, and by tier the share of them in the part that the tier keeps at first.

    A layer is what belongs to one module, by the path that PyTorch gives it.
    """
    plans = kept_plans(strategy, strategy.context(1))
    spec = strategy.network
    layers: dict[str, dict[str, Any]] = {}
    for name, tensor in strategy.state.items():
        layers.setdefault(name.rpartition(".")[0] or name, {"size": 0, "held": {}})["size"] += tensor.numel()
    for tier, plan in plans.items():
        if tier == GLOBAL:
            continue
        counts = dict.fromkeys(layers, 0)
        for block in submodel(spec, plan.holding).blocks.values():
            counts[block.source.rpartition(".")[0] or block.source] += block.numel
        for name, count in counts.items():
            layers[name]["held"][tier] = float(plan.keep) * count / max(layers[name]["size"], 1)
    by_importance = any(plan.keep < 1 for plan in plans.values())
    return {"layers": layers, **({"by_importance": True} if by_importance else {})}


def network_of(strategy: FlowerStrategy) -> dict[str, Any]:
    """The network's axes, and what the part costs that each tier keeps at first.

    Returns:
        As `server_app.inspection.inspected` gives it.
    """
    plans, settings = kept_plans(strategy, strategy.context(1)), strategy.settings
    parts = {
        tier.name: Part(
            rate=str(tier).partition(":")[2], plan=plans[tier.name], batch_size=settings.work_of(tier).batch_size
        )
        for tier in settings.tiers
    }
    whole = Part(rate="1", plan=plans[GLOBAL], batch_size=settings.work.batch_size)
    return inspected(strategy.network, parts, whole, _MOST_LINES)


def _labels(data: DataSettings, facts: InputFacts) -> dict[str, Any]:
    """How many training examples of each class the first clients have; {} where that is not known or not told."""
    if data.own or facts.task != CLASSIFICATION or data.synthetic_groups:
        return {}
    labels = load(data).train_examples.classes
    every = shards(data)
    counts = [np.bincount(labels[rows], minlength=len(facts.classes)).tolist() for rows in every[:_MOST_CLIENTS]]
    return {"labels": {"classes": list(facts.classes), "counts": counts, "clients": len(every)}}
