"""What a device measures of itself."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import psutil
import pytest
import torch

from client_app import hardware, profile
from models import NetworkSpec, Plan, completed
from models.cost import cost_of, training_bytes
from protocol import Objective, WireError, Work
from protocol.profile import CORES, GUESSED, MEMORY_AVAILABLE, MEMORY_TOTAL, NEEDED, STEP, ProfileRequest, TierWork
from tests.support import context_of

CPU = torch.device("cpu")
MLP = completed(NetworkSpec("mlp", (1, 8, 8), 10, widths=(32, 16)))
WORK = Work(batch_size=8, device="cpu")
REQUEST = ProfileRequest(
    network=MLP, tiers={"a": TierWork(Plan(), work=WORK), "b": TierWork(Plan(Fraction(1, 4)), work=WORK)}, whole=False
)


def test_a_request_survives_the_wire() -> None:
    assert ProfileRequest.from_text(REQUEST.to_text()) == REQUEST
    for text in ("", "{}", "[]", REQUEST.to_text().replace("rate", "rat")):
        with pytest.raises(WireError):
            ProfileRequest.from_text(text)


def test_every_tier_is_timed() -> None:
    found = profile.measure(REQUEST)
    assert 0 < found[MEMORY_AVAILABLE] <= found[MEMORY_TOTAL] <= psutil.virtual_memory().total
    assert 0 < found[CORES] <= (psutil.cpu_count() or 1)
    assert all(value > 0 for value in found.values())
    assert {STEP + "a", STEP + "b"} <= set(found)
    assert found[NEEDED + "a"] == training_bytes(MLP, Plan(), 8)
    assert found[NEEDED + "b"] < found[NEEDED + "a"]


def test_no_time_and_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without time the larger tier is scaled from the smaller; without memory it is not run."""
    hurried = ProfileRequest(network=MLP, tiers=REQUEST.tiers, seconds=0.0)
    found = profile.measure(hurried)
    assert found[GUESSED + "a"] == 1
    assert GUESSED + "b" not in found
    macs = (64 * 32 + 32 * 16 + 16 * 10) / (64 * 8 + 8 * 4 + 4 * 10)
    assert found[STEP + "a"] == pytest.approx(found[STEP + "b"] * macs, rel=1e-6)
    least = training_bytes(MLP, Plan(Fraction(1, 4)), 8)
    monkeypatch.setattr(hardware, "memory", lambda device: (10 * least, least))
    found = profile.measure(REQUEST)
    assert STEP + "a" not in found
    assert STEP + "b" in found


def test_an_objective_that_is_not_known() -> None:
    odd = ProfileRequest(network=MLP, tiers={"a": TierWork(Plan(), Objective("nonsense"), WORK)})
    with pytest.raises(WireError, match="nonsense"):
        profile.measure(odd)


def test_measured_once_and_remembered_by_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[ProfileRequest] = []

    def measure(request: ProfileRequest) -> dict[str, float]:
        calls.append(request)
        return {STEP + "a": 0.25 + len(calls)}

    monkeypatch.setattr(profile, "measure", measure)
    monkeypatch.setattr(profile, "_known", {})
    context = context_of()
    first = profile.figures(REQUEST.to_text(), context)
    assert profile.figures(REQUEST.to_text(), context) == first == {STEP + "a": 1.25}
    profile._known.clear()  # another process of the same node
    assert profile.figures(REQUEST.to_text(), context) == first
    assert len(calls) == 1
    other = ProfileRequest(network=MLP, tiers=REQUEST.tiers, seconds=3.0)
    assert profile.figures(other.to_text(), context) == {STEP + "a": 2.25}
    assert calls == [REQUEST, other]


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_memory_of_control_groups(tmp_path: Path) -> None:
    """A limit counts wherever it stands above the process; cache that nobody uses is free. Both versions."""
    mb = 10**6
    process = tmp_path / "cgroup"
    process.write_text("0::/pods/one\n")
    two = tmp_path / "two"
    write(
        two,
        {
            "pods/memory.max": f"{64 * mb}\n",
            "pods/memory.current": f"{24 * mb}\n",
            "pods/memory.stat": f"anon 1\ninactive_file {4 * mb}\n",
            "pods/one/memory.max": "max\n",
        },
    )
    assert hardware.memory(CPU, two, process) == (64 * mb, 44 * mb)
    process.write_text("7:cpu,cpuacct:/x\n4:memory:/a/b\n0::/\n")
    one = tmp_path / "one"
    write(
        one,
        {
            "memory/a/b/memory.limit_in_bytes": f"{32 * mb}\n",
            "memory/a/b/memory.usage_in_bytes": f"{30 * mb}\n",
            "memory/a/b/memory.stat": "total_inactive_file 0\n",
            "memory/memory.limit_in_bytes": f"{2**62}\n",
        },
    )
    assert hardware.memory(CPU, one, process) == (32 * mb, 2 * mb)
    total, available = hardware.memory(CPU, tmp_path / "none", process)
    assert total == psutil.virtual_memory().total
    assert 0 < available <= total


def test_cores_of_control_groups(tmp_path: Path) -> None:
    process = tmp_path / "cgroup"
    process.write_text("0::/\n")
    write(tmp_path / "two", {"cpu.max": "50000 100000\n"})
    assert hardware.cores(tmp_path / "two", process) == 0.5
    write(tmp_path / "free", {"cpu.max": "max 100000\n"})
    assert hardware.cores(tmp_path / "free", process) == hardware.cores(tmp_path / "none", process) >= 1
    process.write_text("1:cpu:/\n")
    write(tmp_path / "one", {"cpu/cpu.cfs_quota_us": "25000\n", "cpu/cpu.cfs_period_us": "100000\n"})
    assert hardware.cores(tmp_path / "one", process) == 0.25


def test_rates_are_positive() -> None:
    assert hardware.matmul_rate(CPU, 64) > 1e6
    assert hardware.convolution_rate(CPU, 4, 8, 2) > 1e5


def test_of_an_ordinary_module_the_real_part_counts() -> None:
    """Its memory, and its multiply-accumulates where a step is scaled: neither follows the square of the rate."""
    edge = completed(NetworkSpec("tests.models.foreign.nets:Edge", (1, 8, 8), 10))
    plans = {"a": Plan(), "b": Plan(Fraction(1, 4))}
    works = {name: TierWork(plan, work=WORK) for name, plan in plans.items()}
    found = profile.measure(ProfileRequest(network=edge, tiers=works, whole=False, seconds=0.0))
    macs = {name: cost_of(edge, plan).macs for name, plan in plans.items()}
    assert found[STEP + "a"] / found[STEP + "b"] == pytest.approx(macs["a"] / macs["b"])
    assert 4 < macs["a"] / macs["b"] < 12
    for name, plan in plans.items():
        assert found[NEEDED + name] == training_bytes(edge, plan, WORK.batch_size)


@pytest.mark.parametrize(
    ("capabilities", "has"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx2": True, "avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({"neon": True, "bf16": False}, False),
    ],
)
def test_whether_a_cpu_has_bfloat16(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], has: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert hardware.has_bfloat16(CPU) is has


@pytest.mark.parametrize("has", [False, True])
def test_whether_a_gpu_has_bfloat16(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    """Emulation does not count."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has or including_emulation)
    assert hardware.has_bfloat16(torch.device("cuda")) is has
