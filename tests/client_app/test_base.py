"""Which base a device has, what it refuses to look for, and that training leaves no trace in it."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from client_app import base as device_base
from client_app.base import NONE, digest_of_base, require_base
from client_app.model_cache import local_model
from models import base_store
from models.adapters.adapter import Adapter
from models.adapters.frozen import written_tensors
from models.algebra.plans import Plan
from models.algebra.submodel import flatten
from models.networks.bases import drawn_base, first_state
from models.networks.build import submodel, without_adapter
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from protocol import WireError
from tests.support import context_of

LORA = Adapter(rank=4, alpha=8.0)
SPEC = completed(NetworkSpec("mlp", (1, 4, 4), 3, widths=(10, 6), norm="none", adapter=LORA))
DEVICE = context_of(1, node_config={}, run_config={})


@pytest.mark.parametrize(
    ("network", "named"),
    [
        (SPEC, "no base"),
        (replace(SPEC, widths=(2**21, 2**21), base="0" * 64), "half of this machine"),
        (replace(SPEC, classes=2**24, widths=(10, 2**24), base="0" * 64), "half of this machine"),
    ],
    ids=["none", "base", "head"],
)
def test_a_request_for_no_base_or_one_of_any_size_is_refused(
    network: NetworkSpec, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_base, "drawn_base", lambda *_: pytest.fail("it was drawn"))
    with pytest.raises(WireError, match=named):
        require_base(network, 1, DEVICE)


def test_a_device_that_is_asked_for_its_base_draws_none_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_base, "drawn_base", lambda *_: pytest.fail("it was drawn"))
    with pytest.raises(WireError, match="half of this machine"):
        digest_of_base(replace(SPEC, widths=(2**21, 2**21)), 1, DEVICE)
    with pytest.raises(WireError, match="no adapter"):
        digest_of_base(without_adapter(SPEC), 1, DEVICE)


def test_a_file_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "base.safetensors"
    device = context_of(1, node_config={"base": str(file)}, run_config={})
    assert digest_of_base(SPEC, 1, device) == NONE
    for seed in (5, 6):
        wanted = drawn_base(SPEC, seed)
        save_file(wanted | ({"more": torch.zeros(seed)}), file)
        assert digest_of_base(SPEC, 1, device) == base_store.digest(wanted)


def test_digests_that_are_remembered_are_few() -> None:
    for seed in range(device_base._KEPT + 3):
        digest_of_base(SPEC, seed, DEVICE)
    assert len(device_base._read) == device_base._KEPT


def test_running_statistics_of_a_base_are_its_own_again_after_a_client() -> None:
    spec = completed(replace(SPEC, norm="batch-per-width"))
    spec = replace(spec, base=base_store.hold(drawn_base(spec, seed=3)))
    plan, state = Plan(Fraction(1, 2)), first_state(spec, 3)
    model, received = local_model(spec, plan, torch.device("cpu")), flatten(submodel(spec, plan).gather(state))
    x = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    model.load(spec, plan, received, sliced=True)
    before = model.module.eval()(x)
    begun = {name: tensor.clone() for name, tensor in written_tensors(model.module).items()}
    assert begun
    model.module.train()(3 * x + 1)
    assert not torch.allclose(model.module.eval()(x), before, atol=1e-4)
    model.load(spec, plan, received, sliced=True)
    assert torch.equal(model.module.eval()(x), before)
    assert all(torch.equal(tensor, begun[name]) for name, tensor in written_tensors(model.module).items())
