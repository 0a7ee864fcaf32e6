"""What is found in ordinary modules: their axes, and the proof that these are right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from models import NetworkSpec, build, completed, layout
from models.algebra.axes import Along, Axis, Beside, Dim, Kind, Place
from models.foreign.axes import find_axes
from models.foreign.check import prove
from models.foreign.refused import Untraceable
from models.foreign.trace import trace
from models.networks.complete import examples
from models.statistics import static_norms
from tests.models.foreign.traced import example, exported_once, found_in


@pytest.mark.parametrize(
    ("net", "sizes"),
    [
        ("edge", {"stem": 12, "squeeze": 5, "hidden": 14}),
        ("attention", {"patch": 10, "qkv": 4, "gate": 14}),
        ("joined", {"first": 4, "second": 3, "up.in": 8, "third": 5}),
        ("steps", {"mix": 8, "mix.in": 7, "words.in": 6, "bag.in": 6, "weighted.parametrizations.weight": 9}),
        ("head", {"layers.2": 6}),
        ("adapted", {"down": 4}),
    ],
)
def test_axes_are_found_and_proved(net: str, sizes: dict[str, int]) -> None:
    module, found = exported_once(net)[0], found_in(net)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    widths = {name: axis.size for name, axis in found.axes.items() if axis.kind is Kind.WIDTH}
    assert (widths, found.traced.not_understood) == (sizes, [])
    proof = prove(module, found, example(net), torch.Generator().manual_seed(1))
    assert proof.holds
    assert max(proof.moved, proof.differs) < 1e-5
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize(
    ("net", "groups"),
    [
        ("edge", {"stem": "stream", "squeeze": "inner", "hidden": "features"}),
        ("attention", {"patch": "stream", "qkv": "heads", "gate": "mlp"}),
        ("joined", dict.fromkeys(["first", "second", "third", "up.in"], "channels")),
        ("layers", {"patch": "stream", **dict.fromkeys(["layers.0.self_attn", "layers.2.self_attn"], "heads")}),
        ("layers", dict.fromkeys(["layers.0.linear1", "layers.1.linear1", "layers.2.linear1"], "mlp")),
        ("residual", {"first.0.conv1": "inner", "second.0.conv1": "inner", "second.0.conv2": "stream"}),
    ],
)
def test_what_axes_are_for_is_found(net: str, groups: dict[str, str]) -> None:
    axes = found_in(net).axes
    assert {name: axes[name].group for name in groups} == groups


def test_concatenations_and_factors_are_found() -> None:
    dims = found_in("joined").dims
    assert dims["groups.weight"][0] == Along("first", inner=3)  # whole groups
    assert dims["second.weight"][1] == Along("first", outer=3)  # shuffled
    assert dims["up.weight"][0] == Beside((Along("first", outer=3), Along("second", inner=2)))


@pytest.mark.parametrize(
    ("spec", "finer"),
    [
        (NetworkSpec("cnn-flat", (1, 8, 8), 10), 0),
        (NetworkSpec("transformer", (8,), 5, blocks=(1,), vocabulary=20, whole_heads=True, pooler=True), 1),
        *(
            pytest.param(spec, 0, marks=pytest.mark.slow)
            for spec in (
                NetworkSpec("mlp", (1, 8, 8), 10),
                NetworkSpec("cnn", (1, 8, 8), 10),
                NetworkSpec("resnet", (1, 8, 8), 10),
                NetworkSpec("resnet-post", (1, 8, 8), 10),
                NetworkSpec("cnn1d", (3, 32), 5),
                NetworkSpec("gru", (8,), 5, widths=(6, 8), vocabulary=20),
                NetworkSpec("gru", (3, 8), 5, widths=(6, 8)),
                NetworkSpec("transformer", (8,), 20, vocabulary=20, whole_heads=True, tied=True),
                NetworkSpec("vit", (1, 8, 8), 10, whole_heads=True),
            )
        ),
    ],
    ids=lambda one: one.name if isinstance(one, NetworkSpec) else "",
)
def test_what_is_found_is_what_we_declare(spec: NetworkSpec, finer: int) -> None:
    """`finer`: axes that are found apart where we declare one, as the pooler's output is."""
    spec = completed(spec)
    network, declared = build(spec), layout(spec)
    for layer in static_norms(network).values():
        layer.statistics = torch.zeros(len(layer.weight)), torch.ones(len(layer.weight))
    found = find_axes(trace(network, examples(spec, 3)))
    names: dict[str, str] = {}
    groups: dict[str, str] = {}
    for name, tensor in declared.tensors.items():
        for theirs, ours in zip(found.dims[name], tensor.dims, strict=True):
            expected = _cut_along(ours, declared.axes)
            there = _cut_along(theirs, found.axes)
            assert (there is None) == (expected is None), name
            if there is not None and expected is not None:
                assert Along(names.setdefault(there.axis, expected.axis), there.outer, there.inner) == expected, name
                groups[there.axis] = declared.axes[expected.axis].group
    assert len(names) == len(set(names.values())) + finer
    if not finer:
        assert groups == {axis.name: axis.group for axis in found.axes.values() if axis.kind is Kind.WIDTH}
    widths = [axis for axis in found.axes.values() if axis.kind is Kind.WIDTH]
    assert len(widths) == sum(axis.kind is Kind.WIDTH for axis in declared.axes.values()) + finer


def _cut_along(dim: Dim, axes: Mapping[str, Axis]) -> Along | None:
    return dim if isinstance(dim, Along) and axes[dim.axis].kind is Kind.WIDTH else None


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.flatten(1))
        if y.sum() > 0:
            y = y * 2
        return y


class Counting(Branching):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1)) * torch.ones(len(x), 1) * float(len(x))  # type: ignore[no-any-return]


class Routed(Branching):
    """Sends every input where its first number says, as mixtures of experts do."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.flatten(1))
        chosen = (y[:, 0] > 0).nonzero()[:, 0]
        return y.index_add(0, chosen, y[chosen])


class Paired(Branching):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return self.layer(x.flatten(1)) + y  # type: ignore[no-any-return]


class Two(Branching):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self.layer(x.flatten(1)), x


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Branching(), r"it branches on data at test_found\.py:\d+ \(if y\.sum\(\) > 0:\)"),
        (Routed(), r"how long the output of nonzero \(test_found\.py:\d+\) is depends on data"),
        (Paired(), r"its forward takes x, y: allowed is one tensor"),
        (Two(), r"its forward returns 2 values"),
        (nn.Linear(64, 10), r"it cannot be traced"),
    ],
)
def test_what_cannot_be_traced_says_why_and_where(module: nn.Module, reason: str) -> None:
    with pytest.raises(Untraceable, match=reason):
        trace(module, example("edge"))


class Sorting(Branching):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(64, 12), nn.Linear(12, 9)
        self.layer = nn.Linear(9, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.after(torch.sort(self.before(x.flatten(1)), dim=1).values))
        return self.layer(x)  # type: ignore[no-any-return]


def test_what_is_not_understood_freezes_what_it_touches_and_says_where() -> None:
    module = Sorting()
    found = find_axes(trace(module, example("edge")))
    assert {name: axis.size for name, axis in found.axes.items() if axis.kind is Kind.WIDTH} == {"after": 9}
    (line,) = found.traced.not_understood
    assert line.startswith("sort (test_found.py:")
    reasons = {atom.why for atom in found.traced.tensors["before.weight"].dims[0]}
    assert reasons == {f"the operation {line} is not understood"}
    assert prove(module, found, example("edge"), torch.Generator().manual_seed(1)).holds


@pytest.mark.slow
def test_blocks_and_stages_are_found_and_proved() -> None:
    found = found_in("residual")
    assert (found.stages.count, found.stages.blocks, found.stages.stages) == (2, (1, 2, 3), (1, 1, 2))
    places = found.stages.places
    assert places["stem.weight"] == Place()
    assert places["first.1.conv2.weight"] == Place(stage=1, block=2)
    assert places["second.0.project.weight"] == Place(stage=2)  # it gets wider: nothing stands in its place
    assert places["head.weight"] == Place(exit=2)
    proof = prove(exported_once("residual")[0], found, example("residual"), torch.Generator().manual_seed(1))
    assert proof.holds
    assert proof.shortened < 1e-5


@pytest.mark.slow
def test_a_layer_of_a_transformer_is_a_stage() -> None:
    found = found_in("layers")
    assert (found.stages.count, found.stages.blocks) == (3, (1, 1, 2, 2, 3, 3))
    assert found.stages.alike
    assert found.stages.normed == (True, True, True)
    assert found.stages.places["norm.weight"] == Place(exit=3)


@pytest.mark.parametrize("wrong", ["entry", "block"])
def test_a_wrong_block_is_found(wrong: str) -> None:
    found = found_in("residual")
    cuts, second = found.stages.graphs[False], found.stages.graphs[False].branches[1]
    if wrong == "entry":  # the input of the block before
        branches = (cuts.branches[0], replace(second, entry=cuts.branches[0].entry), *cuts.branches[2:])
    else:  # what is added is another branch's
        branches = (cuts.branches[0], replace(second, branch=second.entry), *cuts.branches[2:])
    graphs = {**found.stages.graphs, False: replace(cuts, branches=branches)}
    module, inputs = exported_once("residual")[0], example("residual")
    mutant = replace(found, stages=replace(found.stages, graphs=graphs))
    assert prove(module, mutant, inputs, torch.Generator().manual_seed(1)).shortened > 1e-2
