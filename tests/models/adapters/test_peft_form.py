"""What a folder of peft's says of an adapter, read and written without peft."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from flotilla.serving.formats.runtime import CannotExport
from flotilla.serving.peft_folder import write_peft
from models.adapters.adapter import Adapter
from models.networks.build import layout
from models.networks.complete import completed
from models.networks.peft_form import CONFIG, WEIGHTS, names_in_peft, peft_config, state_in_peft
from models.networks.spec import NetworkSpec
from models.registry import following

LORA = Adapter(rank=4, alpha=8.0)
SPEC = completed(NetworkSpec("mlp", (1, 4, 4), 3, widths=(10, 6), norm="none", adapter=LORA))


def folder_with(path: Path, said: str, value: float = 1.0) -> Path:
    """An adapter whose tensors are all of one value, and whose configuration says something."""
    tensors, names = layout(SPEC).tensors, names_in_peft(SPEC)
    save_file({names[name]: torch.full(tensors[name].shape, value) for name in tensors}, path / WEIGHTS)
    (path / CONFIG).write_text(f'{{"peft_type": "LORA", {said}}}')
    return path


@pytest.mark.parametrize("sketched", [False, True])
def test_pefts_own_factor_is_that_of_the_part(sketched: bool) -> None:
    adapter = replace(LORA, sketched=sketched)
    spec = replace(SPEC, adapter=adapter)
    for rank in (4, 2, 1):
        said = peft_config(spec, rank, "base")
        assert said["lora_alpha"] / said["r"] == adapter.factor_of(rank)


def test_another_factor_is_multiplied_into_b(tmp_path: Path) -> None:
    found = state_in_peft(folder_with(tmp_path, '"r": 4, "lora_alpha": 24'), SPEC)
    lefts = {pair.b for pair in layout(SPEC).pairs}
    assert {name: float(tensor.flatten()[0]) for name, tensor in found.items()} == {
        name: 3.0 if name in lefts else 1.0 for name in found
    }


@pytest.mark.parametrize(
    "said",
    [
        '"r": 0',
        '"r": -4',
        '"r": null',
        '"r": [4]',
        '"r": true',
        '"r": 1e999',
        '"r": NaN',
        '"r": 4, "lora_alpha": null',
        '"r": 4, "lora_alpha": {}',
        '"r": 4, "lora_alpha": 0',
        '"r": 4, "lora_alpha": NaN',
        '"r": 4, "lora_alpha": Infinity',
        '"r": 4, "lora_alpha": 1' + 400 * "0",
        '"r": 4, "lora_alpha": 1e300, "x": ' + 100_000 * "[",
    ],
)
def test_a_damaged_configuration_is_refused_in_a_line(said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="adapter_config") as caught:
        state_in_peft(folder_with(tmp_path, said), SPEC)
    assert "\n" not in str(caught.value)


def test_what_is_finite_only_before_it_is_scaled_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="finite"):
        state_in_peft(folder_with(tmp_path, '"r": 4, "lora_alpha": 1e30', 1e30), SPEC)


def convolutions(options: dict[str, Any]) -> NetworkSpec:
    adapter = replace(LORA, targets=("convolution",))
    spec = NetworkSpec("tests.models.foreign.nets:Geometry", (1, 8, 8), 10, adapter=adapter)
    return completed(replace(spec, options=tuple(options.items())))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"dilation": 2}, "a dilation"),
        ({"dilation": 2, "padding": 2}, "a dilation"),
        *(({"mode": mode, "padding": 1}, f"{mode} padding") for mode in ("reflect", "replicate", "circular")),
        ({"mode": "reflect"}, "reflect padding"),
        ({"mode": "circular", "dilation": 2}, "a dilation and circular padding"),
    ],
)
def test_convolutions_that_peft_has_not_are_refused(options: dict[str, Any], why: str, tmp_path: Path) -> None:
    with following(["tests.*"]):
        spec = convolutions(options)
        state = {name: torch.zeros(one.shape) for name, one in layout(spec).tensors.items()}
        with pytest.raises(CannotExport, match=f"'first' has {why}, which"):
            write_peft(tmp_path, spec, state, "")
        (tmp_path / CONFIG).write_text('{"peft_type": "LORA"}')
        with pytest.raises(ValueError, match=f"'first' has {why}, which"):
            state_in_peft(tmp_path, spec)


@pytest.mark.parametrize("options", [{}, {"padding": 1}, {"outside": True}])
def test_convolutions_that_peft_has_are_not(options: dict[str, Any], tmp_path: Path) -> None:
    with following(["tests.*"]):
        spec = convolutions(options)
        state = {name: torch.ones(one.shape) for name, one in layout(spec).tensors.items()}
        assert write_peft(tmp_path, spec, state, "") > 0
        assert set(state_in_peft(tmp_path, spec)) == set(state)
