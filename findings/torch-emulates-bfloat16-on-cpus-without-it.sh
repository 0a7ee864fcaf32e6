#!/usr/bin/env bash
# torch 2.13.0, CPU: a convolution under torch.autocast("cpu", dtype=torch.bfloat16), forward and backward, on a CPU without bfloat16
# instructions: it is computed by emulation and takes several times as long as in float32. ONEDNN_MAX_CPU_ISA=AVX2 is there for CPUs that have
# them, on which this was not tried. There is no warning; torch.cpu.get_capabilities() says which instructions a CPU has ("avx512_bf16", "amx_bf16", on arm64 "bf16").
# Seen: 7 and 10 times as long on an AMD EPYC with AVX2. So a setting that is to be faster makes just the smaller devices of a fleet slower.
# For our users: a device without them trains in float32 and says so (client_app/hardware.py).
# Exits with 0 while it is so, with 1 when it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0" numpy
ONEDNN_MAX_CPU_ISA=AVX2 env/bin/python -W error - <<'PYTHON'
from contextlib import nullcontext
from statistics import median
from time import perf_counter

import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(0)
convolution = nn.Conv2d(32, 64, 3)
x = torch.randn(10, 32, 30, 30, requires_grad=True)


def seconds(precision):
    times = []
    for _ in range(7):
        began = perf_counter()
        with precision:
            y = convolution(x)
        (y.float() ** 2).mean().backward()
        times.append(perf_counter() - began)
    return median(times[2:])


exact = seconds(nullcontext())
mixed = seconds(torch.autocast("cpu", dtype=torch.bfloat16))
known = torch.cpu.get_capabilities()
has = [name for name in ("avx512_bf16", "amx_bf16", "bf16") if known.get(name)]
print(f"torch {torch.__version__}, bfloat16 instructions of this CPU: {has}; bfloat16 / float32: {mixed / exact:.1f} times as long")
raise SystemExit(0 if mixed > 2 * exact else 1)
PYTHON
