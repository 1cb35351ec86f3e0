"""A Gaussian in weight space, per family: fine-tuned weights mixed without any learned representation."""

from dataclasses import dataclass

import numpy as np
from einops import einsum

from wsl.generators.family import Family, FamilySampler, Sample, draw_families


@dataclass(kw_only=True, eq=False)
class WeightGaussian(FamilySampler):
    """A Gaussian with the mean and the covariance of the anchors' weights.

    Args:
        spread: factor of its standard deviation; 0 gives the soup.
        anchors: how many train models per family, as `Family.anchors` chooses them; None means all.
    """

    spread: float
    anchors: int | None

    def sample(self, n: int, rng: np.random.Generator) -> list[Sample]:
        """Draws n models."""
        return [(family, family.unflatten(self._weights(family, rng))) for family in draw_families(self.families, n, rng)]

    def _weights(self, family: Family, rng: np.random.Generator) -> np.ndarray:
        weights = family.weights[family.anchors(self.anchors)]
        mean = weights.mean(axis=0)
        mixture = rng.standard_normal(len(weights)) / np.sqrt(max(len(weights) - 1, 1))
        return mean + self.spread * einsum(mixture, weights - mean, "n, n w -> w")
