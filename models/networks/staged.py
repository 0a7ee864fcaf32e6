"""A network as stages and the exits that follow them: one description for every kind of exit and every depth.

A network lists how its stages are made, the axis that its features run along after each, and what its features look
like. Which stages a build has and which exits it ends in follows from the spec's `exits` and from the plan's depth:

- "auto": what the method needs; where nobody says, as "last".
- "last": one exit after the last stage. The network cannot be cut in depth.
- "plain": an exit after every stage: what a stage's features need before they are pooled, pooling, a linear layer.
- "bottleneck": DepthFL's (ICLR 2023, appendix): before the last stage an attention gate and a stride-2 separable
  convolution for every stage that is skipped (`models.networks.bottleneck`), then as "plain".
- "convolutional": ScaleFL's (CVPR 2023): before the last stage three convolutions that keep what they get
  (`models.networks.convolutional_exit`), then as "plain".
- "shared": one exit that every depth uses (InclusiveFL with a classifier for all); features must keep one axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from torch import Tensor, nn

from models.algebra.axes import SHARED
from models.algebra.declarations import declare
from models.errors import SettingError
from models.networks.bottleneck import Bottleneck
from models.networks.builder import Builder
from models.networks.convolutional_exit import convolutions
from models.networks.spec import SPATIAL


class Exit(nn.Module):
    """Features (N, C, ...) → logits (N, classes).

    Args:
        ready: what the features need before they are pooled, such as the norm of a pre-activation network; or what
            pools them itself, for features of another form, and returns (N, C).
        reduce: stands between the features and `ready`; a bottleneck, or convolutions.
        classifier: (N, C) → logits.
    """

    def __init__(self, ready: nn.Module, reduce: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.reduce, self.ready, self.classifier = reduce, ready, classifier

    def forward(self, features: Any) -> Tensor:
        """Logits."""
        ready_NCx: Tensor = self.ready(self.reduce(features))
        pooled_NC = ready_NCx.flatten(2).mean(2) if ready_NCx.ndim > 2 else ready_NCx
        return self.classifier(pooled_NC)  # type: ignore[no-any-return]


class Staged(nn.Module):
    """x → logits of the deepest exit that this build has; `predictions` gives those of all.

    Args:
        builder: makes the layers; knows the spec, and the depth and exits of this build.
        stages: makes each stage of the full network; only those that are held are made.
        streams: axis of the features after each stage.
        stem: makes what stands before the first stage and belongs to it.
        ready: axis → what features need before they are pooled, or what pools them; default nothing.
        spatial: whether features are images, which bottlenecks and convolutions need.
        classifier: axis → what makes logits of pooled features; default a linear layer.
    """

    def __init__(
        self,
        builder: Builder,
        stages: Sequence[Callable[[], nn.Module]],
        streams: Sequence[str],
        *,
        stem: Callable[[], nn.Module] = nn.Identity,
        ready: Callable[[str], nn.Module] = lambda axis: nn.Identity(),
        spatial: bool = False,
        classifier: Callable[[str], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        kind, last = builder.spec.exits, len(stages)
        depth, classifier = builder.depth or last, classifier or builder.classifier
        if kind in SPATIAL and not spatial:
            raise SettingError("exits", kind, f"one of last, plain, shared for {builder.spec.name!r}")
        if kind == "shared" and len(set(streams)) > 1:
            raise SettingError(
                "exits", kind, f"one of last, plain, bottleneck, convolutional for {builder.spec.name!r}"
            )
        self.stem = declare(stem(), stage=1)
        self.stages = nn.ModuleList(declare(make(), stage=i) for i, make in enumerate(stages[:depth], 1))
        self.exits = nn.ModuleDict()
        if kind == "shared":
            end = streams[0]
            exit_of_all = Exit(ready(end), nn.Identity(), classifier(end))
            self.exits["shared"] = declare(exit_of_all, exit_of=SHARED)
        for i in [] if kind == "shared" else self._places(builder, depth, last):
            own = streams[i - 1]
            reduce: nn.Module | None = None
            if i < last and kind == "bottleneck":
                own, reduce = streams[-1], Bottleneck(builder, streams[i - 1 :], ready(own))
            elif i < last and kind == "convolutional":
                reduce = convolutions(builder, own, ready(own))
            # What bottlenecks and convolutions end in is normalised already.
            final = ready(own) if reduce is None else nn.Identity()
            self.exits[str(i)] = declare(Exit(final, reduce or nn.Identity(), classifier(own)), exit_of=i)

    @staticmethod
    def _places(builder: Builder, depth: int, last: int) -> Sequence[int]:
        """Stages whose exits this build has."""
        if builder.spec.exits in ("auto", "last"):
            return [last] if depth == last else []
        return [depth] if builder.own_exit else range(1, depth + 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of the deepest exit."""
        features = self.stem(x)
        for stage in self.stages:
            features = stage(features)
        return list(self.exits.values())[-1](features)  # type: ignore[no-any-return]

    def predictions(self, x: Tensor) -> list[Tensor]:
        """Logits of every exit, shallowest first."""
        made = self.after_stages(x)
        return [self.exit_after(stage)(features) for stage, features in made if self.has_exit_after(stage)]

    def after_stages(self, features: Any, *, done: int = 0) -> Iterator[tuple[int, Any]]:
        """Run the stages one by one: the number of each, and the features after it.

        Args:
            features: after the stages that are done; the network's inputs where none is.
            done: number of stages; the last of them is said again.
        """
        if done:
            yield done, features
        else:
            features = self.stem(features)
        for stage, run in enumerate(islice(self.stages, done, None), done + 1):
            features = run(features)
            yield stage, features

    def has_exit_after(self, stage: int) -> bool:
        """Whether this build has an exit after a stage; one that every depth uses stands after the last."""
        return str(stage) in self.exits or ("shared" in self.exits and stage == len(self.stages))

    def exit_after(self, stage: int) -> nn.Module:
        """The exit after a stage that has one."""
        return self.exits["shared" if "shared" in self.exits else str(stage)]
