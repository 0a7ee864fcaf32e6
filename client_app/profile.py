"""What this device can carry: training steps of every tier's part, timed, and the memory that they take."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from hashlib import blake2b
from statistics import median
from time import perf_counter

import torch
from flwr.app import ConfigRecord, Context, MetricRecord, RecordDict

from client_app import hardware
from client_app.client_state import ClientState
from client_app.model_cache import local_model
from client_app.objectives import ObjectiveContext, objective
from client_app.training import train
from data import AUGMENTATIONS, Split
from models.adversary import Attack
from models.algebra.submodel import flatten
from models.cost import cost_of, training_bytes
from models.device import device_named, threads
from models.networks.build import initial_state, submodel
from models.networks.complete import examples
from models.randomness import generator, torch_generator
from protocol import WireError
from protocol.memory_format import memory_format
from protocol.profile import (
    CONVOLUTION,
    CORES,
    GUESSED,
    MATMUL,
    MEASURED_PEAK,
    MEMORY_AVAILABLE,
    MEMORY_TOTAL,
    NEEDED,
    STEP,
    ProfileRequest,
    TierWork,
)

_RECORD = "profile"
_TURNS, _STEPS = 5, 2
_known: dict[str, dict[str, float]] = {}  # a simulation's nodes are one machine


def figures(text: str, context: Context) -> dict[str, float]:
    """Figures of this device for a request, measured once and then remembered in `context.state`.

    A SuperNode that is started again has forgotten them, and measures anew.

    Raises:
        WireError: the request is unreadable, or asks for what this client does not have.
    """
    key = blake2b(text.encode(), digest_size=16).hexdigest()
    if key not in _known:
        _known[key] = _remembered(context, key) or measure(ProfileRequest.from_text(text))
    found = _known[key]
    context.state[_RECORD] = ConfigRecord({"key": key})
    context.state[f"{_RECORD}-figures"] = MetricRecord(dict(found))
    return found


def _remembered(context: Context, key: str) -> dict[str, float] | None:
    record, found = context.state.get(_RECORD), context.state.get(f"{_RECORD}-figures")
    if not isinstance(record, ConfigRecord) or not isinstance(found, MetricRecord) or record["key"] != key:
        return None
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def measure(request: ProfileRequest) -> dict[str, float]:
    """Measure this device: memory, cores, rates, and for every tier that fits the memory the seconds of a step.

    The smallest tier comes first. A tier whose step would take more than the time that is left, by the ratio of
    multiply-accumulates, is not run: its figure is that guess, and marked. A tier that needs more than there is of
    memory has no seconds.

    Raises:
        WireError: what a tier would train is not known here.
    """
    works = [tier.work for tier in request.tiers.values()]
    device = device_named(works[0].device)
    with threads(works[0].threads):
        total, available = hardware.memory(device)
        found = {
            MEMORY_TOTAL: float(total),
            MEMORY_AVAILABLE: float(available),
            CORES: hardware.cores(),
            MATMUL: hardware.matmul_rate(device),
            CONVOLUTION: hardware.convolution_rate(device),
        }
        ends, before = perf_counter() + request.seconds, (0.0, 0)
        for name, tier in sorted(request.tiers.items(), key=lambda item: _macs(request, item[1])):
            needed = training_bytes(request.network, tier.plan, tier.work.batch_size, whole=request.whole)
            found[NEEDED + name] = float(needed)
            if needed > available:
                continue
            macs, left = _macs(request, tier), ends - perf_counter()
            guess = before[0] * macs / before[1] if before[1] else 0.0
            if before[1] and guess > left:
                found[STEP + name], found[GUESSED + name] = guess, 1.0
                continue
            found[STEP + name], peak = _step(request, tier, device, left)
            if peak is not None:
                found[NEEDED + name], found[MEASURED_PEAK + name] = float(peak), 1.0
            before = found[STEP + name], macs
    return found


def _macs(request: ProfileRequest, tier: TierWork) -> int:
    return max(1, cost_of(request.network, tier.plan, every_exit=True).macs * tier.work.batch_size)


def _step(request: ProfileRequest, tier: TierWork, device: torch.device, left: float) -> tuple[float, int | None]:
    """Median seconds of a step (forward, backward, optimiser) on made-up examples; and its peak memory on a GPU."""
    network, plan, work = replace(request.network, base=""), tier.plan, replace(tier.work, local_steps=_STEPS)
    try:
        model = local_model(network, plan, device)
    except (ValueError, KeyError) as error:
        raise WireError(f"the plan does not fit the network: {error}") from None
    draws = torch_generator(0, 0, "server", "profile")
    whole = plan.keep != 1  # whose mask comes from the whole state
    numel = submodel(network, plan).numel
    state = flatten(initial_state(network, draws)) if whole else torch.empty(numel).normal_(std=0.02, generator=draws)
    model.load(network, plan, state, sliced=not whole)
    count = max(2, work.batch_size) * _STEPS
    labels = torch.arange(count) % network.classes
    made_up = Split(examples(network, count), labels)
    least, most = torch.zeros((), device=device), torch.ones((), device=device)
    training = work.adversarial
    attack = (
        None
        if training is None
        else Attack(epsilon=training.epsilon, steps=training.steps, low=least, high=most, draws=draws)
    )
    setting = ObjectiveContext(
        module=model.module,
        spec=network,
        plan=plan,
        labels=tuple(range(network.classes)),
        settings=tier.objective.settings,
        draws=generator(0, 0, "server", "profile"),
        memory=ClientState(_nobody(), 0, 1, checkpoint=0),
        adversarial=0.0 if training is None else training.weight,
        attack=attack,
    )
    run = partial(
        train,
        model.module,
        made_up,
        objective(tier.objective.name, setting),
        request.optimiser,
        work,
        draws=draws,
        augmentation=AUGMENTATIONS["none"],
        memory_format=memory_format(network, plan, work, device),
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    ends, times = perf_counter() + left, []
    for turn in range(_TURNS + 1):  # the first warms up, and counts only if it used up the time
        began = perf_counter()
        run()
        times.append((perf_counter() - began) / _STEPS)
        if turn and perf_counter() + times[-1] * _STEPS > ends:
            break
    peak = int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None
    return median(times[1:] or times), peak


def _nobody() -> Context:
    """A device that remembers nothing."""
    return Context(run_id=0, node_id=0, node_config={}, state=RecordDict(), run_config={})
