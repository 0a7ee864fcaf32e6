"""From examples to sums, and from sums to facts: the same arithmetic for one folder and for a thousand devices."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from data.channel_sums import channel_sums, moments
from data.examples import Examples
from data.input_facts import InputFacts, SourceFacts
from data.matching import in_order
from data.summary import Summary
from models.losses import CLASSIFICATION

CLASSES, SHAPES, VALUES, TOKENS = "class", "shape", "values", "tokens"


def summary_of(examples: Examples, classes: Sequence[str], shape: Sequence[int], *, texts: bool) -> Summary:
    """The summary of some examples.

    Args:
        examples: at least one.
        classes: names, in the order of their labels.
        shape: of one input.
        texts: whether values are tokens, which have no mean.
    """
    if examples.labels.is_floating_point():  # every example has every output
        named = dict.fromkeys(classes, len(examples))
    else:
        counts = np.bincount(examples.labels.numpy(), minlength=len(classes)).tolist()
        named = {name: count for name, count in zip(classes, counts, strict=True) if count}
    found = {CLASSES: named, SHAPES: {json.dumps(list(shape)): len(examples)}}
    if texts or not len(examples):
        return Summary(counts=found)
    values = channel_sums(examples.chunks())
    return Summary(
        counts=found,
        sums={VALUES: values.sums},
        least={VALUES: values.least},
        greatest={VALUES: values.greatest},
    )


def facts_of(summary: Summary, dataset: str, source: SourceFacts, *, vocabulary: int, images: bool) -> InputFacts:
    """The facts of a task whose examples were pooled.

    Args:
        summary: of all of them.
        dataset: its name.
        source: what the source says of itself; of its classes only their order is taken.
        vocabulary: number of different tokens; 0 for values.
        images: whether inputs are pictures.

    Raises:
        ValueError: no examples, fewer than two classes, or inputs of different shapes.
    """
    told = summary.counts.get(CLASSES, {})
    names = tuple(sorted(told)) if source.task == CLASSIFICATION else in_order(told)
    shapes = summary.counts.get(SHAPES, {})
    if len(names) < 2 and (source.task == CLASSIFICATION or not names):
        raise ValueError(f"at least 2 classes are needed; there are {len(names)}")
    if len(shapes) != 1:
        raise ValueError(f"inputs of one shape are needed; there are {', '.join(sorted(shapes)[:5]) or 'none'}")
    sides = json.loads(next(iter(shapes)))
    if not isinstance(sides, list) or not all(type(side) is int for side in sides):
        raise ValueError("a shape that is none")
    mean, std = ((), ()) if vocabulary else moments(summary.sums.get(VALUES, ()))
    return InputFacts(
        dataset=dataset,
        classes=names,
        input_shape=tuple(sides),
        vocabulary=vocabulary,
        images=images and len(sides) == 3,
        mean=mean,
        std=std,
        least=summary.least.get(VALUES, 0.0),
        greatest=summary.greatest.get(VALUES, 0.0),
        white=source.white,
        units=source.units,
        tokens=source.tokens,
        task=source.task,
        details=source.details,
        fit=source.fit,
    )
