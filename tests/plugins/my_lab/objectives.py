"""An objective: cross entropy with smoothed labels."""

from torch.nn import functional as F


def smoothed(setting):
    share = float(setting.settings["share"])

    def loss(inputs, labels):
        logits = setting.module(inputs)
        return F.cross_entropy(logits, labels, label_smoothing=share), logits

    return loss
