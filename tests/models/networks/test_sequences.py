"""The GRU: PyTorch's own network in another dress, deaf to padding, cut gate by gate; and what a small CNN hears."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from models import Along, NetworkSpec, Plan, build_part, completed, initial_state, layout, submodel, torch_generator
from models.algebra.axes import Dim
from tests.models.inputs import drawn

TEXT = completed(NetworkSpec("gru", (9,), 7, widths=(5, 8, 6), norm="none", vocabulary=11))
SIGNAL = completed(NetworkSpec("gru", (3, 9), 7, widths=(5, 8, 6), norm="none"))
HALF = Plan(Fraction(1, 2))


def _network(spec: NetworkSpec, plan: Plan) -> tuple[nn.Module, dict[str, Tensor]]:
    state = initial_state(spec, torch_generator(1, 0, 0, "initial"))
    network = build_part(spec, plan)
    network.load_state_dict(submodel(spec, plan).gather(state))
    return network.eval(), network.state_dict()


def _cell(state: dict[str, Tensor], layer: int, x_NC: Tensor, h_NH: Tensor) -> Tensor:
    """Cho et al. as PyTorch and cuDNN write it: the reset gate stands behind the matrix."""
    gates = [
        torch.nn.functional.linear(value, state[f"stages.{layer}.{name}.weight"], state[f"stages.{layer}.{name}.bias"])
        for name, value in (("inputs", x_NC), ("states", h_NH))
    ]
    (r_x, z_x, n_x), (r_h, z_h, n_h) = (part.chunk(3, dim=1) for part in gates)
    reset, update = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
    return (1 - update) * torch.tanh(n_x + reset * n_h) + update * h_NH


@pytest.mark.parametrize("plan", [Plan(), HALF], ids=["full", "half"])
def test_a_text_gate_by_gate(plan: Plan) -> None:
    network, state = _network(TEXT, plan)
    x_NT = drawn(TEXT, 3)
    for text, logits in zip(x_NT, network(x_NT), strict=True):
        steps = [state["stem.table.weight"][token][None] * 5**0.5 for token in text if token]
        for layer in range(2):
            h = torch.zeros(1, state[f"stages.{layer}.states.weight"].shape[1])
            outputs = []
            for x in steps:
                h = _cell(state, layer, x, h)
                outputs.append(h)
            steps = outputs
        expected = state["exits.2.classifier.weight"] @ steps[-1][0] + state["exits.2.classifier.bias"]
        torch.testing.assert_close(logits, expected)


def test_a_signal_step_by_step() -> None:
    network, state = _network(SIGNAL, Plan())
    x_NCT = drawn(SIGNAL, 2)
    steps = [x_NCT[:, :, t] @ state["stem.linear.weight"].T + state["stem.linear.bias"] for t in range(9)]
    for layer in range(2):
        h, outputs = torch.zeros(2, (8, 6)[layer]), []
        for x in steps:
            h = _cell(state, layer, x, h)
            outputs.append(h)
        steps = outputs
    expected = steps[-1] @ state["exits.2.classifier.weight"].T + state["exits.2.classifier.bias"]
    torch.testing.assert_close(network(x_NCT), expected)


def test_padding_is_not_heard() -> None:
    network, _ = _network(TEXT, Plan())
    short = drawn(TEXT, 4)
    short[:, 4:] = 0
    torch.testing.assert_close(network(short), network(short[:, :4]))
    other = short.clone()
    other[:, 3] = other[:, 3] % 10 + 1
    assert not torch.allclose(network(short), network(other), atol=1e-4)
    assert network(torch.zeros(2, 9, dtype=torch.int64)).isfinite().all()


def test_every_gate_keeps_the_same_units() -> None:
    part = submodel(TEXT, Plan(Fraction(1, 2), units=(("layer1", (6, 1, 3)), ("layer2", (5, 0)))))
    rows = [1, 3, 6, 9, 11, 14, 17, 19, 22]
    for name in ("stages.0.inputs.weight", "stages.0.states.weight", "stages.0.inputs.bias", "stages.0.states.bias"):
        index = part[name].indices[0]
        assert index is not None
        assert index.tolist() == rows
    columns = part["stages.1.inputs.weight"].indices[1]
    assert columns is not None
    assert columns.tolist() == [1, 3, 6]
    gates: Dim = Along("layer1", outer=3)
    assert layout(TEXT).tensors["stages.0.states.weight"].dims == (gates, Along("layer1"))


CNN = NetworkSpec("cnn1d", (3, 16), 7, widths=(4, 6, 5))


@pytest.mark.parametrize("spec", [TEXT, SIGNAL, CNN], ids=["text", "signal", "cnn1d"])
def test_shallow_parts_are_the_first_stages(spec: NetworkSpec) -> None:
    spec = completed(
        NetworkSpec(
            spec.name,
            spec.input_shape,
            spec.classes,
            widths=spec.widths,
            norm="group",
            vocabulary=spec.vocabulary,
            exits="plain",
        )
    )
    state = initial_state(spec, torch_generator(1, 0, 0, "initial"))
    whole = build_part(spec, Plan())
    whole.load_state_dict(state)
    x = drawn(spec, 4)
    for depth in range(1, layout(spec).depth + 1):
        part = submodel(spec, Plan(depth=depth))
        shallow = build_part(spec, Plan(depth=depth))
        shallow.load_state_dict(part.gather(state))
        torch.testing.assert_close(shallow(x), whole.predictions(x)[depth - 1])  # type: ignore[operator]


def test_gradients_reach_every_tensor() -> None:
    for spec in (TEXT, SIGNAL):
        network, _ = _network(spec, HALF)
        network.train()
        network(drawn(spec, 4)).square().sum().backward()
        assert all(p.grad is not None and bool(p.grad.any()) for p in network.parameters())


def test_the_cnn_hears_two_steps_each_way() -> None:
    """Kernel 5 at every stage, halved in between: logits do not depend on more than they should."""
    spec = completed(NetworkSpec("cnn1d", (2, 32), 3, widths=(6, 6), norm="none"))
    network, state = _network(spec, Plan())
    x = drawn(spec, 2)
    one = torch.relu(torch.nn.functional.conv1d(x, state["stages.0.0.weight"], state["stages.0.0.bias"], padding=2))
    one = one.reshape(*one.shape[:2], 16, 2).amax(3)
    two = torch.relu(torch.nn.functional.conv1d(one, state["stages.1.0.weight"], state["stages.1.0.bias"], padding=2))
    expected = two.mean(2) @ state["exits.2.classifier.weight"].T + state["exits.2.classifier.bias"]
    torch.testing.assert_close(network(x), expected)
