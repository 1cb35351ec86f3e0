"""Copies of train models, with or without noise: the baseline that every sampler must beat at equal novelty."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wsl.generators.family import FamilySampler, Sample, draw_families


@dataclass(kw_only=True, eq=False)
class CopyModel(FamilySampler):
    """A train model's weights plus white noise.

    Args:
        noise: standard deviation of the noise, in units of the root-mean-square of each tensor; 0 copies exactly.
        anchors: how many train models per family, as `Family.anchors` chooses them; None means all.
    """

    noise: float
    anchors: int | None

    def sample(self, n: int, rng: np.random.Generator) -> list[Sample]:
        """Draws n train models with replacement and adds the noise."""
        drawn = draw_families(self.families, n, rng)
        return [(family, self._noisy(family.states[rng.choice(family.anchors(self.anchors))], rng)) for family in drawn]

    def _noisy(self, state: Mapping[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        noisy = {}
        for name, tensor in state.items():
            white = torch.from_numpy(rng.standard_normal(tuple(tensor.shape), dtype=np.float32))
            noisy[name] = tensor + self.noise * tensor.float().square().mean().sqrt() * white
        return noisy
