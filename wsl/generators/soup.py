"""Uniform soup: the average of a family's train models (Wortsman et al., arXiv 2203.05482)."""

from dataclasses import dataclass

import numpy as np

from wsl.generators.family import FamilySampler, Sample


@dataclass(kw_only=True, eq=False)
class UniformSoup(FamilySampler):
    """The mean of the weights, one model per family.

    Args:
        anchors: how many train models per family, as `Family.anchors` chooses them; None means all.
    """

    anchors: int | None

    def sample(self, n: int, rng: np.random.Generator) -> list[Sample]:
        """Gives the soup of each family, n at most; nothing is drawn at random."""
        return [(f, f.unflatten(f.weights[f.anchors(self.anchors)].mean(axis=0))) for f in self.families[:n]]
