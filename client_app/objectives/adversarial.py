"""Adversarial training of any objective (Madry et al., ICLR 2018; Split-Mix, ICLR 2022, §4.3).

    L = (1 - λ)·L(x) + λ·L(x')

x' is near x and raises the loss of the task, cross entropy of the network's own output, whatever terms the objective
adds to it. It is found against the noise copies of dual norms, and only these see it (`models.norms.dual_norm`);
without dual
norms clean and adversarial batches go through the same ones. Where nets stand side by side every net has adversaries of
its own, as in the authors' code.
"""

from __future__ import annotations

from torch import Tensor

from client_app.objectives.base import LocalObjective, ObjectiveContext
from models.norms.dual_norm import noise_share


def adversarial(plain: LocalObjective, task: LocalObjective, setting: ObjectiveContext) -> LocalObjective:
    """Train on clean and on attacked inputs.

    Args:
        plain: the objective.
        task: what the attack raises, of the same network.
        setting: how to attack, and λ.
    """
    attack, weight, module = setting.attack, setting.adversarial, setting.module
    if attack is None:
        return plain

    def loss(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        found = attack.perturb(module, lambda x: task(x, labels)[0], inputs)
        clean, logits = plain(inputs, labels)
        with noise_share(module, 1.0):
            attacked, _ = plain(found, labels)
        return (1 - weight) * clean + weight * attacked, logits

    return loss
