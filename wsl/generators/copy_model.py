"""Copies of train models, with or without noise: the baseline that every sampler must beat at equal novelty."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from wsl.generators.family import Family, FamilySampler, Sample, draw_families, others_of, with_noise
from zoo_gen.errors import InputError


@dataclass(kw_only=True, eq=False)
class CopyModel(FamilySampler):
    """A train model's weights plus white noise.

    Args:
        noise: standard deviation of the noise, in units of the root-mean-square of each tensor; 0 copies exactly.
        anchors: how many train models per family, as `Family.anchors` chooses them; None means all.
        root: whose train models are copied: those of the `own` root of a family, or of an `other` one of its shape.
    """

    noise: float
    anchors: int | None
    root: str

    def __post_init__(self) -> None:
        """Raises `InputError` for another root than these."""
        if self.root not in ("own", "other"):
            raise InputError(f"root must be own or other, not {self.root}")

    def fit(self, families: Sequence[Family]) -> Self:
        """Keeps the families that have something to copy. Raises `InputError` if there are none."""
        sources = [[family] if self.root == "own" else others_of(family, families) for family in families]
        self._sources = {family.name: source for family, source in zip(families, sources, strict=True)}
        kept = [family for family, source in zip(families, sources, strict=True) if source]
        if not kept:
            raise InputError("no two roots have train models of one shape, so none can be copied from another root")
        return super().fit(kept)

    def sample(self, n: int, rng: np.random.Generator) -> list[Sample]:
        """Draws n train models with replacement and adds the noise."""
        samples = []
        for family in draw_families(self.families, n, rng):
            sources = self._sources[family.name]
            source = sources[rng.integers(len(sources))] if len(sources) > 1 else sources[0]
            samples.append((family, with_noise(source.states[rng.choice(source.anchors(self.anchors))], self.noise, rng)))
        return samples
