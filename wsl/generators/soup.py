"""Uniform soup: the average of a family's train models (Wortsman et al., arXiv 2203.05482)."""

from collections.abc import Sequence
from typing import Self

import numpy as np

from wsl.generators.family import Family, Sample


class UniformSoup:
    """The mean of the weights, one model per family.

    Args:
        anchors: how many train models per family, best val accuracy first; None means all.
    """

    def __init__(self, *, anchors: int | None):
        self.anchors = anchors
        self.families: Sequence[Family] = ()

    def fit(self, families: Sequence[Family]) -> Self:
        """Keeps the train models."""
        self.families = families
        return self

    def sample(self, n: int, rng: np.random.Generator) -> list[Sample]:
        """Gives the soup of each family, n at most; nothing is drawn at random."""
        return [(f, f.unflatten(f.weights[f.anchors(self.anchors)].mean(axis=0))) for f in self.families[:n]]
