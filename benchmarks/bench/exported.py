"""Exported tiers: one example by the ONNX file of a tier against PyTorch, in one thread, in turns of one process."""

from __future__ import annotations

from fractions import Fraction
from functools import partial

import torch

from benchmarks.bench.rows import Row, row_of_turns
from benchmarks.document import Say
from data import DataSettings, input_facts, load
from flotilla.serving.export_table import latencies
from flotilla.serving.formats.onnx_file import OnnxModel, onnx_bytes
from flotilla.serving.formats.runtime import example_of
from flotilla.serving.model import ModelCard, TierModel
from models.algebra.plans import Plan
from models.algebra.rates import single
from models.device import threads
from models.networks.build import initial_state, part_of, submodel
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from models.randomness import torch_generator
from models.statistics import collect
from strategies.tiers.tier import HALVING

NAME = "exported"
LIMIT = 3.0  # times faster than PyTorch
LIMITED = ("d", "e")  # tiers that are held to it: of the others the arithmetic itself takes the time
_STATISTICS = 256  # examples


def exported(say: Say = print, network: NetworkSpec | None = None, turns: int = 5) -> list[Row]:
    """Time every tier of the default network.

    Args:
        say: takes progress.
        network: another one, for inputs of the digits.
        turns: of 200 calls each way.
    """
    spec = completed(NetworkSpec("cnn", (1, 8, 8), 10, scaler=True)) if network is None else network
    rows = []
    for tier in HALVING:
        say(f"exported: tier {tier.name}")
        model = _tier(spec, tier.name, single(tier.rate))
        content = onnx_bytes(model)
        runtime, one = OnnxModel(content), example_of(model, 1)
        array = one.numpy()
        with threads(1), torch.inference_mode():
            pairs = [latencies([partial(runtime.run, array), partial(model, one)]) for _ in range(turns)]
        rows.append(
            row_of_turns(
                NAME,
                f"tier {tier.name}: one example by onnxruntime / by PyTorch",
                [(ours, theirs) for ours, theirs in pairs],
                unit="µs",
                scale=1e6,
                limit=LIMIT if tier.name in LIMITED else None,
                at_least=True,
                note=f"{len(content):,} bytes" if tier.name in LIMITED else "",
            )
        )
    return rows


def _tier(spec: NetworkSpec, name: str, rate: Fraction) -> TierModel:
    """A tier's network as `flotilla.load` makes it, with weights as they are drawn."""
    plan, settings = Plan(rate), DataSettings()
    state = initial_state(spec, torch_generator(1, 0, "server", "benchmark"))
    network = part_of(spec, plan, state)
    card = ModelCard(
        tier=name,
        network=spec,
        plan=plan,
        noise_share=0.0,
        inputs=input_facts(settings),
        round=0,
        accuracy=None,
        moments=collect(network, [load(settings).train.inputs[:_STATISTICS]]),
    )
    return TierModel(card, submodel(spec, plan).gather(state))
