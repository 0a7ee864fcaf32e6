"""What peft makes of an adapter of ours, and we of one of peft's, on a network of transformers."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flotilla.serving.peft_folder import write_peft
from models import base_store
from models.adapters.adapter import Adapter
from models.algebra.plans import Plan
from models.networks.bases import base_in, first_state, trained_in
from models.networks.build import initial_state, layout, part_of, submodel, without_adapter
from models.networks.complete import completed
from models.networks.named import bert_tiny, library
from models.networks.spec import NetworkSpec
from models.randomness import torch_generator
from models.registry import following
from tests.models.foreign.nets import Geometry, Joined

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # peft's and transformers' own

OUTER = "classifier."
BERT = NetworkSpec("bert-tiny", (8,), 3, vocabulary=50, adapter=Adapter(rank=4, alpha=8.0))


@pytest.mark.parametrize(("target", "pairs"), [("linear", 13), ("attention", 8)])
def test_the_same_logits_both_ways(tmp_path: Path, target: str, pairs: int) -> None:
    """Every rank's folder in peft gives our part's logits; what peft saves of it is our state, its base our base."""
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    peft = library("peft", "bert-tiny")
    spec = completed(replace(BERT, adapter=Adapter(rank=4, alpha=8.0, targets=(target,))))
    whole, draws = first_state(without_adapter(spec), 1), torch_generator(5, 0, "server", "test")
    saved = {name.removeprefix(OUTER): tensor for name, tensor in whole.items()}
    save_file(saved, tmp_path / "model.safetensors")
    base = base_in(tmp_path, spec)  # as transformers saves it: without the wrapper's name
    assert len(layout(spec).pairs) == pairs
    assert all(torch.equal(tensor, whole[name]) for name, tensor in base.items())
    spec = replace(spec, base=base_store.hold(base))
    state = {n: t + 0.2 * torch.randn(t.shape, generator=draws) for n, t in initial_state(spec, draws).items()}
    x = torch.randint(1, 50, (6, 8), generator=draws)
    x[0, 5:] = 0
    for rank in (4, 1):
        plan, folder = Plan(Fraction(rank, 4)), tmp_path / f"rank{rank}"
        write_peft(folder, spec, submodel(spec, plan).gather(state), str(tmp_path))
        theirs = bert_tiny((8,), 3, 50).get_submodule("classifier")
        theirs.load_state_dict(saved)
        with torch.no_grad():
            mask = x.ne(0).long()
            plain = theirs.eval()(x, attention_mask=mask).logits
            adapted = peft.PeftModel.from_pretrained(theirs, folder).eval()
            logits = adapted(x, attention_mask=mask).logits
            ours = part_of(spec, plan, state).eval()(x)
        assert torch.allclose(logits, ours, atol=1e-5)
        assert not torch.allclose(logits, plain, atol=1e-2)
        adapted.save_pretrained(tmp_path / f"back{rank}")
    back = trained_in(tmp_path / "back4", spec)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    assert base_store.digest(base_in(tmp_path / "back4", spec)) == spec.base
    with pytest.raises(ValueError, match="lora_A"):
        trained_in(tmp_path / "back1", spec)


def test_an_adapter_that_peft_made(tmp_path: Path) -> None:
    """Of another factor: B is scaled, so that the logits are the same."""
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    peft = library("peft", "bert-tiny")
    spec = completed(replace(BERT, adapter=Adapter(rank=4, alpha=8.0, targets=("attention",))))
    whole, x = first_state(without_adapter(spec), 1), torch.randint(1, 50, (6, 8))
    theirs = bert_tiny((8,), 3, 50).get_submodule("classifier")
    theirs.load_state_dict({name.removeprefix(OUTER): tensor for name, tensor in whole.items()})
    targets = ["query", "key", "value", "attention.output.dense"]
    config = peft.LoraConfig(
        r=4, lora_alpha=16, target_modules=targets, modules_to_save=["classifier"], init_lora_weights=False
    )
    adapted = peft.get_peft_model(theirs, config).eval()
    adapted.save_pretrained(tmp_path)
    spec = replace(spec, base=base_store.hold({name: whole[name] for name in layout(spec).frozen}))
    with torch.no_grad():
        ours = part_of(spec, Plan(), trained_in(tmp_path, spec)).eval()(x)
        assert torch.allclose(adapted(x, attention_mask=x.ne(0).long()).logits, ours, atol=1e-5)


@pytest.mark.parametrize(
    ("net", "options"), [(Joined, {}), (Geometry, {}), (Geometry, {"outside": True})], ids=["joined", "same", "padded"]
)
def test_convolutions_both_ways(tmp_path: Path, net: type[torch.nn.Module], options: dict[str, bool]) -> None:
    """Ordinary modules, one with a concatenation and groups, some that pad: peft's logits are our part's."""
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    peft = library("peft", "bert-tiny")
    with following(["tests.*"]):
        adapter = Adapter(rank=4, alpha=8.0, targets=("convolution",))
        alone = NetworkSpec(f"tests.models.foreign.nets:{net.__name__}", (1, 8, 8), 10, adapter=adapter)
        spec = completed(replace(alone, options=tuple(options.items())))
        whole, draws = first_state(without_adapter(spec), 1), torch_generator(5, 0, "server", "test")
        spec = replace(spec, base=base_store.hold({name: whole[name] for name in layout(spec).frozen}))
        state = {n: t + 0.2 * torch.randn(t.shape, generator=draws) for n, t in initial_state(spec, draws).items()}
        x = torch.randn(6, 1, 8, 8, generator=draws)
        for rank in (4, 1):
            plan, folder = Plan(Fraction(rank, 4)), tmp_path / f"rank{rank}"
            write_peft(folder, spec, submodel(spec, plan).gather(state), "")
            theirs = net(**options)
            theirs.load_state_dict(whole)
            with torch.no_grad():
                plain = theirs.eval()(x)
                adapted = peft.PeftModel.from_pretrained(theirs, folder).eval()
                ours = part_of(spec, plan, state).eval()(x)
                assert torch.allclose(adapted(x), ours, atol=1e-5)
                assert not torch.allclose(ours, plain, atol=1e-2)
            adapted.save_pretrained(tmp_path / f"back{rank}")
        back = trained_in(tmp_path / "back4", spec)
        assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
