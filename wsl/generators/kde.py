r"""Kernel density estimate in latent space: the sampler of hyper-representations (Schürholt et al., arXiv 2209.14733).

In each family a sample is the latents :math:`z_a` of a train model (its anchor) plus Gaussian noise,
:math:`z = z_a + h\,\sigma\varepsilon`, where :math:`\sigma` is the standard deviation over the family's anchors, latent by
latent. Bandwidth :math:`h = 0` gives the decoded anchors themselves, and a large one forgets the anchor.
"""

from dataclasses import dataclass

import numpy as np

from wsl.generators.family import Family, FamilySampler, Sample, decoded, draw_families


@dataclass(kw_only=True, eq=False)
class KDE(FamilySampler):
    """A Gaussian around each anchor, in latent space, per family.

    Args:
        bandwidth: width of the kernel, in units of the spread of the anchors.
        anchors: how many train models per family, as `Family.anchors` chooses them; None means all.
    """

    bandwidth: float
    anchors: int | None

    def sample(self, n: int, rng: np.random.Generator) -> list[Sample]:
        """Draws n models: anchor, noise, decoder."""
        return decoded([(family, self._latents(family, rng)) for family in draw_families(self.families, n, rng)])

    def _latents(self, family: Family, rng: np.random.Generator) -> np.ndarray:
        anchors = family.latents[family.anchors(self.anchors)]
        noise = anchors.std(axis=0) * rng.standard_normal(anchors.shape[1:])
        return anchors[rng.integers(len(anchors))] + self.bandwidth * noise
