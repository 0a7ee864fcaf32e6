#!/usr/bin/env bash
# torch 2.13.0, CPU: torch.optim.SGD(fused=True) goes through parameters and gradients as they lie in memory, without a look at their
# strides. Autograd brings gradients into their parameter's order, but who sets `.grad` by hand, as a server does that hands the
# clients' mean difference to an optimiser, may have another: a convolution's weights with channels innermost (channels_last) and a
# contiguous difference. Then numbers go to other weights, with no error and no warning. The default and foreach=True are right.
# For our users: the training loop's SGD asks for contiguous parameters, and hooks change gradients in place (client_app/sgd.py).
# Exits with 0 while it is so, with 1 when it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0" numpy
env/bin/python -W ignore - <<'PYTHON'
import torch

torch.set_num_threads(1)
torch.manual_seed(0)
weights, difference = torch.randn(8, 4, 3, 3), torch.randn(8, 4, 3, 3)


def stepped(order, **way):
    weight = torch.nn.Parameter(weights.contiguous(memory_format=torch.channels_last))
    weight.grad = difference.contiguous(memory_format=order)
    torch.optim.SGD([weight], lr=0.1, **way).step()
    return weight.detach()


expected = weights - 0.1 * difference
ways = {"default": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}
away = {
    (name, said): (stepped(order, **way) - expected).abs().max().item()
    for name, way in ways.items()
    for said, order in (("the weights' order", torch.channels_last), ("contiguous", torch.contiguous_format))
}
for (name, said), most in away.items():
    print(f"torch {torch.__version__}: SGD, {name}, gradient {said}: at most {most:.1e} from w - 0.1 g")
wrong = [key for key, most in away.items() if most > 1e-6]
raise SystemExit(0 if wrong == [("fused", "contiguous")] else 1)
PYTHON
