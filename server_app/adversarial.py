"""The keys about adversarial inputs, checked: what devices train on, which norms there are, what is evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

import torch

from data import DataSet
from models.adversary import Attack
from models.errors import SettingError
from models.randomness import torch_generator
from protocol import AdversarialTraining, Scalar, Work

DUAL = ("auto", "on", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class Robustness:
    """How adversarial inputs come into a run.

    Attributes:
        adversarial: weight λ of the training loss on them; 0 is off.
        epsilon, steps: see `models.adversary.Attack`.
        dual: whether every norm exists twice.
        mix: share λ_t of the noise norms in every evaluation.
        examples: number of test examples that are attacked at every evaluation; 0 is off.
    """

    adversarial: float
    epsilon: float
    steps: int
    dual: bool
    mix: float
    examples: int

    def told(self, work: Work) -> Work:
        """What devices are told, with this in it."""
        if not self.adversarial:
            return work
        training = AdversarialTraining(
            weight=self.adversarial, epsilon=self.epsilon, steps=self.steps, noise_share=self.mix
        )
        return replace(work, adversarial=training)

    def attack(self, data: DataSet) -> Attack:
        """The attack on test examples: always the same random starts, whatever the run's seed."""
        low, high = data.limits
        return Attack(
            epsilon=self.epsilon, steps=self.steps, low=low, high=high, draws=torch_generator(0, 0, "server", "attack")
        )

    def rows(self, count: int) -> torch.Tensor:
        """Which of so many test examples are attacked, ascending: always the same."""
        order = torch.randperm(count, generator=torch_generator(0, 0, "server", "attacked examples"))
        return order[: self.examples].sort().values


def robustness(keys: Mapping[str, Scalar], *, images: bool) -> Robustness:
    """Read the keys.

    Args:
        keys: of the run, of the right types.
        images: whether inputs are images.

    Raises:
        SettingError: an epsilon that is none, adversaries of what is no image, noise norms that nobody trains or has.
    """
    weight, mix, examples = float(keys["adversarial"]), float(keys["robust-mix"]), int(keys["evaluate-robust"])
    for key, on in (("adversarial", weight), ("evaluate-robust", examples)):
        if on and not images:
            raise SettingError(key, keys[key], f"0 with dataset {keys['dataset']!r}, whose inputs are no images")
    try:
        epsilon = float(Fraction(str(keys["adversarial-epsilon"]).strip()))
    except (ValueError, ZeroDivisionError):
        epsilon = 0.0
    if not 0 < epsilon <= 1:
        allowed = 'a share of the range of a pixel, above 0 and at most 1, in quotes: "8/255", "0.1"'
        raise SettingError("adversarial-epsilon", keys["adversarial-epsilon"], allowed)
    wanted = keys["dual-norm"]
    if wanted not in DUAL:
        raise SettingError("dual-norm", wanted, DUAL)
    if wanted == "on" and not weight:
        raise SettingError("dual-norm", wanted, "auto or off where adversarial is 0: nobody trains the noise norms")
    dual = wanted == "on" or (wanted == "auto" and 0 < weight < 1)
    if mix and not dual:
        raise SettingError("robust-mix", mix, "0 without dual norms")
    return Robustness(
        adversarial=weight, epsilon=epsilon, steps=int(keys["adversarial-steps"]), dual=dual, mix=mix, examples=examples
    )
