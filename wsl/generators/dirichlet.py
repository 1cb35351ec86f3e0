"""Random soups: convex combinations of a family's train models, with weights of a Dirichlet distribution."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from wsl.generators.family import Family, FamilySampler, Sample, draw_families, with_noise


@dataclass(kw_only=True, eq=False)
class Dirichlet(FamilySampler):
    """A random mean of train models, plus white noise.

    Args:
        concentration: of the distribution; 1 draws all means alike, little stays near single models, much near the uniform soup.
        noise: standard deviation of the noise, in units of the root-mean-square of each tensor.
        anchors: how many train models per family, as `Family.anchors` chooses them; None means all.
    """

    concentration: float
    noise: float
    anchors: int | None

    def sample(self, n: int, rng: np.random.Generator) -> list[Sample]:
        """Draws n models."""
        return [(family, self._mixed(family, rng)) for family in draw_families(self.families, n, rng)]

    def _mixed(self, family: Family, rng: np.random.Generator) -> dict[str, Tensor]:
        chosen = family.anchors(self.anchors)
        shares = rng.dirichlet(np.full(len(chosen), self.concentration)).astype(np.float32)
        state = family.unflatten(shares @ family.weights[chosen])
        return with_noise(state, self.noise, rng) if self.noise else state
