"""What lies in a place that somebody named: which form the images have, which splits are there, and the label of each picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TRAIN, VAL, TEST = ("train", "training"), ("val", "valid", "validation"), ("test", "testing")
"""How people call the three splits."""


@dataclass(frozen=True)
class Found:
    """Pictures that were found, not yet opened.

    Attributes:
        card: `_target_` and the arguments that are the source's own.
        names: of the classes, in the order of their labels.
        train: the label of each picture to train on, and of those that splits are drawn from where they are missing.
        val, test: the same; None where there is no such split.
    """

    card: Mapping[str, Any]
    names: Sequence[str]
    train: Sequence[int]
    val: Sequence[int] | None
    test: Sequence[int] | None
