"""Deep supervision: every exit of the part learns, and may learn from the others.

    L = Σ_i c_i · (CE(z_i, y) + w · distillation_i)

- "mutual" (DepthFL, ICLR 2023, eq. 2): every exit i learns from each other one,
  1/(d-1) · Σ_{j≠i} KL(softmax(z_j) + 1e-7 ‖ softmax(z_i)), the teachers constant, temperature 1; nothing at d = 1.
- "last" (ScaleFL, CVPR 2023, eq. 3): every exit but the last learns from the last, T² · KL(softmax(z_last/T) ‖
  softmax(z_i/T)), the teacher constant.
- "last-elementwise": the same as its released code has it (git-disl/scale-fl, commit c2084e4, models/model_utils.py):
  a mean over batch *and classes*, so w is a C-th as strong, and the gradient passes through the teacher, too.

But for that last one the divergences are means over the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from client_app.objectives.base import LocalObjective, ObjectiveContext
from models.losses import loss_of
from models.predictions import predictions
from protocol import WireError

_EPSILON = 1e-7
DISTILLATIONS = ("none", "mutual", "last", "last-elementwise")


def deep_supervision(setting: ObjectiveContext) -> LocalObjective:
    """Cross entropy at every exit, with distillation among them.

    Settings: `distillation` (one of `DISTILLATIONS`), `weight` (w), `temperature` (T, not of "mutual"), `by-depth` (a
    bool: c_i proportional to i and summing to 1; else every c_i is 1).

    Raises:
        WireError: a setting that is not understood.
    """
    try:
        kind = str(setting.settings.get("distillation", "none"))
        weight = float(setting.settings.get("weight", 0.0))
        temperature = float(setting.settings.get("temperature", 1.0))
        by_depth = bool(setting.settings.get("by-depth", False))
    except ValueError as error:
        raise WireError(f"deep supervision settings {dict(setting.settings)}: {error!r}") from None
    if kind not in DISTILLATIONS:
        raise WireError(f"distillation {kind!r}: this client knows {', '.join(DISTILLATIONS)}")

    def loss(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = predictions(setting.module, inputs)
        terms = [loss_of(setting.spec.task, one, labels) for one in logits]
        if weight and len(logits) > 1 and kind != "none":
            released = kind == "last-elementwise"
            learning = _mutual(logits) if kind == "mutual" else _from_last(logits, temperature, released=released)
            terms = [term + weight * extra for term, extra in zip(terms, learning, strict=True)]
        shares = range(1, len(terms) + 1)
        factors = [i / sum(shares) if by_depth else 1.0 for i in shares]
        return torch.stack([factor * term for factor, term in zip(factors, terms, strict=True)]).sum(), logits[-1]

    return loss


def _mutual(logits: list[Tensor]) -> list[Tensor]:
    # All pairs at once: the sum over j ≠ i of t_j · (log t_j - s_i) needs the teachers only by their sum.
    teachers_EBC = torch.stack([one.detach() for one in logits]).softmax(2) + _EPSILON
    students_EBC = torch.stack(logits).log_softmax(2)
    own_E = (teachers_EBC * teachers_EBC.log()).sum((1, 2))
    others_EBC = teachers_EBC.sum(0) - teachers_EBC
    pairs = (len(logits) - 1) * len(logits[0])
    return list(((own_E.sum() - own_E - (others_EBC * students_EBC).sum((1, 2))) / pairs).unbind())


def _from_last(logits: list[Tensor], temperature: float, *, released: bool) -> list[Tensor]:
    teacher = F.softmax((logits[-1] if released else logits[-1].detach()) / temperature, 1)
    share = 1 / teacher.shape[1] if released else 1.0
    learning = [
        temperature**2 * share * F.kl_div(F.log_softmax(one / temperature, 1), teacher, reduction="batchmean")
        for one in logits[:-1]
    ]
    return [*learning, torch.zeros_like(learning[0])]
