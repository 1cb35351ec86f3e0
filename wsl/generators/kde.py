r"""Kernel density estimate in latent space: the sampler of hyper-representations (Schürholt et al., arXiv 2209.14733).

In each family a sample is the latents :math:`z_a` of a train model (its anchor) plus Gaussian noise with the
covariance of the family's anchors, :math:`z = z_a + h\,\Sigma^{1/2}\varepsilon`. There are far more latent dimensions
than anchors, so :math:`\Sigma` is never formed: a Gaussian combination of the centred anchors has it exactly.
Bandwidth :math:`h = 0` gives the decoded anchors themselves, and a large one forgets the anchor.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
from einops import einsum

from wsl.generators.family import Family, Sample, draw_families


class KDE:
    """A Gaussian around each anchor, in latent space, per family.

    Args:
        bandwidth: width of the kernel, in units of the spread of the anchors.
        anchors: how many train models per family, best val accuracy first; None means all.
    """

    def __init__(self, *, bandwidth: float, anchors: int | None):
        self.bandwidth = bandwidth
        self.anchors = anchors
        self.families: Sequence[Family] = ()

    def fit(self, families: Sequence[Family]) -> Self:
        """Keeps the families: their latents are the estimate."""
        self.families = families
        return self

    def sample(self, n: int, rng: np.random.Generator) -> list[Sample]:
        """Draws n models: anchor, noise, decoder."""
        return [(family, family.decode(self._latents(family, rng))) for family in draw_families(self.families, n, rng)]

    def _latents(self, family: Family, rng: np.random.Generator) -> np.ndarray:
        anchors = family.latents[family.anchors(self.anchors)]
        mixture = rng.standard_normal(len(anchors)) / np.sqrt(max(len(anchors) - 1, 1))
        noise = einsum(mixture, anchors - anchors.mean(axis=0), "n, n t z -> t z")
        return anchors[rng.integers(len(anchors))] + self.bandwidth * noise
