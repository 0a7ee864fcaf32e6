"""The keys about adversarial inputs, checked: what devices train on, which norms there are, what is evaluated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import torch

from data import DataSet
from models.adversary import Attack
from models.errors import SettingError
from models.randomness import torch_generator
from models.settings import Names, Text, at_least, between, check, setting
from protocol import AdversarialTraining, Work

DUAL = ("auto", "on", "off")
_EPSILON = 'a share of the range of a pixel, above 0 and at most 1, in quotes: "8/255", "0.1"'


@dataclass(frozen=True, kw_only=True)
class Adversarial:
    """Adversarial inputs, in training and in evaluation."""

    adversarial: float = setting(
        0.0,
        "λ: a training step minimises (1 − λ)·loss(clean) + λ·loss(adversarial); 0 is off. A step then costs about"
        " (steps + 2) times as much",
        between(0, 1),
    )
    adversarial_epsilon: str = setting(
        "8/255",
        "radius of the L∞ ball as a share of the range of a pixel, in training and in evaluation; the range is that"
        " of the training images",
        Text(_EPSILON),
        read_by="adversarial or evaluate-robust above 0",
    )
    adversarial_steps: int = setting(
        7,
        "steps of projected gradient descent from a random start, each min(1.25·ε, ε + 4/255) / steps",
        at_least(1),
        read_by="adversarial or evaluate-robust above 0",
    )
    dual_norm: str = setting(
        "auto",
        "`on`: every norm has a copy that only adversarial inputs go through; `off`; `auto` is on where 0 < λ < 1",
        Names(DUAL),
    )
    robust_mix: float = setting(
        0.0,
        "λ_t: share of the noise norms in every layer when a network is evaluated; 0 is accurate, 1 robust. Above 0,"
        " `static-batch` estimates their statistics on adversarial training inputs",
        between(0, 1),
    )
    evaluate_robust: int = setting(
        0,
        "test examples, always the same, that are attacked at every evaluation (`evaluate-every`): the share that is"
        " still right is reported as `robust`, of the global network and of every tier. The attack knows"
        " `robust-mix`; 0 is off",
        at_least(0),
    )

    def __post_init__(self) -> None:
        """Hold every value against what is allowed.

        Raises:
            SettingError: names the key, the value and what is allowed.
        """
        check(self)


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


def robustness(told: Adversarial, dataset: str, *, images: bool) -> Robustness:
    """What the settings come to.

    Args:
        told: the settings.
        dataset: name of the data set, for messages.
        images: whether its inputs are images.

    Raises:
        SettingError: an epsilon that is none, adversaries of what is no image, noise norms that nobody trains or has.
    """
    weight = told.adversarial
    for key, on in (("adversarial", weight), ("evaluate-robust", told.evaluate_robust)):
        if on and not images:
            raise SettingError(key, on, f"0 with dataset {dataset!r}, whose inputs are no images")
    try:
        epsilon = float(Fraction(told.adversarial_epsilon.strip()))
    except (ValueError, ZeroDivisionError):
        epsilon = 0.0
    if not 0 < epsilon <= 1:
        raise SettingError("adversarial-epsilon", told.adversarial_epsilon, _EPSILON)
    if told.dual_norm == "on" and not weight:
        raise SettingError("dual-norm", "on", "auto or off where adversarial is 0: nobody trains the noise norms")
    dual = told.dual_norm == "on" or (told.dual_norm == "auto" and 0 < weight < 1)
    if told.robust_mix and not dual:
        raise SettingError("robust-mix", told.robust_mix, "0 without dual norms")
    return Robustness(
        adversarial=weight,
        epsilon=epsilon,
        steps=told.adversarial_steps,
        dual=dual,
        mix=told.robust_mix,
        examples=told.evaluate_robust,
    )
