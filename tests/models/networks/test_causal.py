"""Causal language models of transformers: which token they answer with, how they are cut, and where they begin."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
import torch

from flotilla import load
from flotilla.serving.peft_folder import write_peft
from models import base_store
from models.adapters.adapter import Adapter
from models.algebra.axes import heads
from models.algebra.plans import Plan
from models.errors import SettingError
from models.networks.bases import base_in, first_state, trained_in
from models.networks.build import initial_state, layout, part_of, submodel, without_adapter
from models.networks.complete import completed
from models.networks.merged import merged
from models.networks.named import library
from models.networks.registry import NETWORKS
from models.networks.spec import NetworkSpec
from models.randomness import torch_generator
from tests.corpora import write_shakespeare
from tests.support import Outcome, Player

needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="the extra `networks`")
pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' and peft's own

TOKENS, LENGTH = 67, 12  # as Shakespeare has them, of shorter texts
GPT2: dict[str, Any] = {
    "model_type": "gpt2",
    "vocab_size": TOKENS,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 20,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "initializer_range": 0.2,  # or a head that nobody trained and nobody may train would hardly tell tokens apart
}
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": TOKENS,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}
MODELS = {"gpt2": GPT2, "llama": LLAMA, "llama, tied": LLAMA | {"tie_word_embeddings": True}}
EMBEDDING = {"gpt2": "model.transformer.wte.weight", "llama, tied": "model.model.embed_tokens.weight"}
PAIRS = {"gpt2": 8, "llama": 14, "llama, tied": 14}


def _spec(
    model: str, classes: int = TOKENS - 2, *, adapter: Adapter | None = None, vocabulary: int = TOKENS, **more: Any
) -> NetworkSpec:
    options = (("config", json.dumps(MODELS[model] | more)),)
    spec = NetworkSpec("causal-lm", (LENGTH,), classes, vocabulary=vocabulary, options=options, adapter=adapter)
    return completed(spec)


def _theirs(model: str, seed: int = 0) -> Any:
    transformers = library("transformers", "causal-lm")
    config = transformers.AutoConfig.for_model(**MODELS[model])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.AutoModelForCausalLM.from_config(config).eval()


def _texts(count: int = 6) -> torch.Tensor:
    texts = torch.randint(1, TOKENS, (count, LENGTH), generator=torch_generator(3, 0, "server", "test"))
    texts[0, 7:], texts[1, 1:], texts[2] = 0, 0, 0
    return texts


@needs_transformers
@pytest.mark.parametrize("classes", [TOKENS, TOKENS - 2])
@pytest.mark.parametrize("model", MODELS)
def test_the_logits_are_those_of_the_model_after_the_last_token(tmp_path: Path, model: str, classes: int) -> None:
    """Of a folder that transformers saved, with padding at the ends of texts, which the model never sees."""
    theirs, spec = _theirs(model), _spec(model, classes, adapter=Adapter(rank=2))
    theirs.save_pretrained(tmp_path)
    spec = replace(spec, base=base_store.hold(base_in(tmp_path, spec)))
    state = initial_state(spec, torch_generator(1, 0, "server", "test")) | trained_in(tmp_path, spec)
    ours = part_of(spec, Plan(), state).eval()
    with torch.no_grad():
        for text, logits in zip(_texts(), ours(_texts()), strict=True):
            alone = text[: max(1, int(text.ne(0).sum()))]
            wanted = theirs(alone[None]).logits[0, -1, TOKENS - classes :]
            assert torch.allclose(logits, wanted, atol=1e-5)


@needs_transformers
@pytest.mark.parametrize("model", MODELS)
def test_where_all_but_padding_are_classes_tokens_are_the_models_and_one_more(tmp_path: Path, model: str) -> None:
    """As `next-token` numbers them: the model's own token 0 is a token, and a class."""
    theirs, spec = _theirs(model), _spec(model, TOKENS, vocabulary=TOKENS + 1, adapter=Adapter(rank=2))
    theirs.save_pretrained(tmp_path)
    spec = replace(spec, base=base_store.hold(base_in(tmp_path, spec)))
    state = initial_state(spec, torch_generator(1, 0, "server", "test")) | trained_in(tmp_path, spec)
    ours, texts = part_of(spec, Plan(), state).eval(), [[0, 5, 0], [66, 0], [3] * LENGTH, [0]]
    inputs = torch.tensor([[one + 1 for one in text] + [0] * (LENGTH - len(text)) for text in texts])
    with torch.no_grad():
        for text, logits in zip(texts, ours(inputs), strict=True):
            assert torch.allclose(logits, theirs(torch.tensor([text])).logits[0, -1], atol=1e-5)


@needs_transformers
@pytest.mark.parametrize("classes", [TOKENS, TOKENS - 2])
@pytest.mark.parametrize("model", EMBEDDING)
def test_an_embedding_that_is_the_head_is_one_tensor_and_frozen_by_an_adapter(model: str, classes: int) -> None:
    spec = _spec(model, classes)
    whole = layout(spec)
    sized = [name for name, tensor in whole.tensors.items() if TOKENS in tensor.shape]
    assert sized == [EMBEDDING[model]]
    assert not heads(whole)
    assert NETWORKS[spec.name].prove is not None
    state = first_state(spec, 1)
    assert set(state) == set(whole.tensors)
    network, name = part_of(spec, Plan(), state), EMBEDDING[model]
    before = network(_texts())
    network(_texts()).sum().backward()
    gradient = dict(network.named_parameters())[name].grad
    assert gradient is not None
    assert (gradient[1:].abs().sum(1) > 0).sum() > len(
        set(_texts().flatten().tolist())
    )  # as what is read, and as what is answered
    adapted = layout(_spec(model, classes, adapter=Adapter(rank=2)))
    assert name in adapted.frozen
    assert len(adapted.pairs) == PAIRS[model]
    assert sorted(adapted.tensors) == sorted(one for pair in adapted.pairs for one in (pair.a, pair.b))
    assert before.shape == (6, classes)


@needs_transformers
def test_a_head_of_its_own_is_trained() -> None:
    adapted = layout(_spec("llama", adapter=Adapter(rank=2)))
    assert heads(adapted) == {"model.lm_head.weight"}
    assert len(adapted.pairs) == PAIRS["llama"]


@needs_transformers
@pytest.mark.parametrize("form", ["pair", "core", "heads"])
@pytest.mark.parametrize("model", MODELS)
def test_pairs_beside_weights_that_are_stored_transposed(model: str, form: str) -> None:
    """Products are added to them as the layer computes, and a part of a lower rank is the whole with zeros."""
    adapter = Adapter(rank=4, alpha=8.0, form=form, heads=2 if form == "heads" else 0)
    spec, draws = _spec(model, adapter=adapter), torch_generator(1, 0, "server", "test")
    whole = first_state(without_adapter(spec), 3)
    spec = replace(spec, base=base_store.hold({name: whole[name] for name in layout(spec).frozen}))
    state = {n: t + 0.3 * torch.randn(t.shape, generator=draws) for n, t in initial_state(spec, draws).items()}
    adapted = part_of(spec, Plan(), state).eval()
    alone, plan, tensors = merged(spec, Plan(), state)
    with torch.no_grad():
        found = adapted(_texts())
        assert torch.allclose(part_of(alone, plan, tensors).eval()(_texts()), found, atol=1e-5)
        assert not torch.allclose(part_of(alone, plan, whole).eval()(_texts()), found, atol=1e-2)


@needs_transformers
@pytest.mark.parametrize("model", MODELS)
def test_peft_has_the_same_logits_both_ways(tmp_path: Path, model: str) -> None:
    for package in ("peft", "accelerate"):
        if find_spec(package) is None:
            pytest.skip("pip install peft accelerate")
    peft, theirs = library("peft", "causal-lm"), _theirs(model)
    theirs.save_pretrained(tmp_path)
    spec, draws = _spec(model, adapter=Adapter(rank=4, alpha=8.0)), torch_generator(1, 0, "server", "test")
    spec = replace(spec, base=base_store.hold(base_in(tmp_path, spec)))
    state = {n: t + 0.2 * torch.randn(t.shape, generator=draws) for n, t in initial_state(spec, draws).items()}
    write_peft(tmp_path / "ours", spec, submodel(spec, Plan()).gather(state), str(tmp_path))
    adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / "ours").eval()
    whole_texts = _texts()[3:]
    with torch.no_grad():
        wanted = adapted(whole_texts).logits[:, -1, 2:]
        found = part_of(spec, Plan(), state).eval()(whole_texts)
    assert torch.allclose(found, wanted, atol=1e-5)
    adapted.save_pretrained(tmp_path / "back")
    back = trained_in(tmp_path / "back", spec)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


@needs_transformers
def test_what_is_refused(tmp_path: Path) -> None:
    def refused(**more: Any) -> Any:
        return pytest.raises(SettingError, **more)

    with refused(match="causal-lm-config = .*allowed is the text of a config.json, or a folder that has one"):
        completed(NetworkSpec("causal-lm", (LENGTH,), 65, vocabulary=TOKENS, options=(("config", str(tmp_path)),)))
    (tmp_path / "config.json").write_text("[1]")
    with refused(match="causal-lm-config = .*allowed is a JSON object"):
        completed(NetworkSpec("causal-lm", (LENGTH,), 65, vocabulary=TOKENS, options=(("config", str(tmp_path)),)))
    with refused(match="allowed is a causal language model's; model_type = 'vit' is none"):
        _spec("gpt2", model_type="vit")
    with refused(match="allowed is a causal language model's; this bert sees what comes after"):
        _spec("gpt2", model_type="bert")
    with refused(match="allowed is of a model with all 67 tokens of the data; vocab_size is 60"):
        _spec("gpt2", vocab_size=60)
    with refused(match="allowed is of a model for texts of 12 tokens; it has 8 positions"):
        _spec("gpt2", n_positions=8)
    with refused(match="allowed is one that transformers can make a model of"):
        _spec("gpt2", n_head=5)
    with refused(match="model = 'causal-lm': allowed is a network for these data: .* 67 tokens, 2 classes"):
        _spec("gpt2", 2)
    with refused(match="allowed is \"\" with this method: 'causal-lm' has linear layers whose weights are stored"):
        _spec("gpt2", adapter=Adapter(rank=2, merges=True))
    assert layout(_spec("llama", adapter=Adapter(rank=2, merges=True))).beside
    with refused(match="has no layer that counts classes"):
        _spec("gpt2", adapter=Adapter(rank=0))
    assert _spec("gpt2", vocab_size=80).classes == TOKENS - 2  # a model may have more tokens than the data


@needs_transformers
def test_devices_have_the_text_of_the_configuration_and_read_no_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GPT2))
    folder = replace(_spec("gpt2"), options=(("config", str(tmp_path)),))
    there = completed(folder)
    assert json.loads(str(dict(there.options)["config"])) == GPT2
    assert completed(NetworkSpec.from_json(there.to_json())) == there
    with pytest.raises(SettingError, match="a JSON object"):
        NETWORKS["causal-lm"].axes(folder)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_shakespeare(folder)
    return folder


def _run(play: Player, texts: Path, folder: Path, **keys: Any) -> Outcome:
    common: dict[str, Any] = {
        "model": "causal-lm",
        "causal_lm_config": str(folder),
        "widths": "",
        "dataset": "shakespeare",
        "data_root": str(texts),
        "sequence_length": LENGTH,
        "partition": "natural",
        "num_clients": 2,
        "num_server_rounds": 3,
        "batch_size": 8,
        "learning_rate": 0.1,
        "evaluate_every": 1,
    }
    out = play(**common | keys)
    assert out.rejected == []
    losses = [row["tiers"][tier]["loss"] for row in out.rows for tier in row["tiers"]]
    assert losses
    assert all(map(isfinite, losses))
    return out


@needs_transformers
@pytest.mark.parametrize(("model", "method"), [("gpt2", "heterofl"), ("gpt2", "flexlora"), ("llama", "heterofl")])
def test_a_run_of_ranks_from_a_folder(play: Player, texts: Path, tmp_path: Path, model: str, method: str) -> None:
    """Only factors and a head of its own travel, losses fall, and what is loaded has the adapter in its weights."""
    _theirs(model).save_pretrained(tmp_path)
    keys = {"method": method, "adapter": "lora:4", "tiers": "a:4, b:2", "start": str(tmp_path)}
    out = _run(play, texts, tmp_path, **keys)
    trained = {name.rpartition(".")[2] for name in out.state}
    assert trained == ({"lora_A", "lora_B"} if model == "gpt2" else {"lora_A", "lora_B", "weight"})
    assert out.rows[-1]["tiers"]["a"]["loss"] < out.rows[0]["tiers"]["a"]["loss"]
    with torch.no_grad():
        assert load(out.path, "b")(_texts()).shape == (6, TOKENS - 2)


@needs_transformers
def test_a_run_of_widths(play: Player, texts: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GPT2))
    out = _run(play, texts, tmp_path, method="heterofl", tiers="a:1, b:1/2")
    assert out.state[EMBEDDING["gpt2"]].shape == (TOKENS, 16)
    assert out.rows[-1]["tiers"]["a"]["loss"] < out.rows[0]["tiers"]["a"]["loss"]
