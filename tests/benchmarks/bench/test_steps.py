"""The bare loop and ours, which the benchmark compares, do the same."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from benchmarks.bench.steps import Round, TierSteps, examples_of
from models.algebra.plans import Plan
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from models.randomness import torch_generator
from protocol import Optimiser, Work
from protocol.training_way import why_loop


@pytest.mark.parametrize("network", ["cnn", "resnet"])  # by backward passes of our own, and by the loop
def test_both_ways_learn_the_same(network: str) -> None:
    blocks = (1, 1) if network == "resnet" else ()
    spec = completed(NetworkSpec(network, (1, 8, 8), 10, widths=(8, 12), scaler=True, blocks=blocks))
    looped = why_loop(spec, Plan(Fraction(1, 2)), Work(batch_size=8), "cross-entropy", regularised=False)
    assert bool(looped) == (network == "resnet")
    asked = Round(
        network=spec.to_json(),
        rates=(Fraction(1, 2),),
        clients=1,
        examples=20,
        work=Work(batch_size=8),
        optimiser=Optimiser(0.05, 0.9, weight_decay=5e-4, clip_norm=1.0),
    )
    tier, examples = TierSteps(asked, Fraction(1, 2)), examples_of(spec, 20, 0)
    tier.eager(examples, torch_generator(0, 0, "bench", "batches"))
    tier.ours([(examples, torch_generator(0, 0, "bench", "batches"))])
    theirs = torch.cat([tensor.reshape(-1) for tensor in tier.module.state_dict().values()])
    assert (tier.model.flat - theirs).norm() <= 1e-3 * (theirs - tier.start).norm()
    learnt = tier.model.flat.clone()
    if not looped:  # two side by side are as one alone
        tier.ours([(examples, torch_generator(0, 0, "bench", "batches")) for _ in range(2)])
        assert torch.equal(tier.model.flat, learnt)
