"""Models that no fine-tuning has touched: random weights, or the root with a random head."""

from collections.abc import Sequence
from typing import Self

import numpy as np
from torch import Tensor

from wsl.generators.family import Family, Sample, draw_families
from zoo_gen.architecture import initialize


class RandomInit:
    """A fresh initialisation of the whole model."""

    def __init__(self):
        self.families: Sequence[Family] = ()

    def fit(self, families: Sequence[Family]) -> Self:
        """Keeps the architectures."""
        self.families = families
        return self

    def sample(self, n: int, rng: np.random.Generator) -> list[Sample]:
        """Draws n initialisations."""
        drawn = draw_families(self.families, n, rng)
        return [(family, initialize(family.architecture, int(rng.integers(2**63)))) for family in drawn]


class NewHead(RandomInit):
    """The family's root with a freshly initialised head: where fine-tuning starts."""

    def sample(self, n: int, rng: np.random.Generator) -> list[Sample]:
        """Draws n heads, each on the root of its family."""
        return [(family, state | _body(family)) for family, state in super().sample(n, rng)]


def _body(family: Family) -> dict[str, Tensor]:
    own = family.states[0]
    return {name: tensor for name, tensor in family.root_state.items() if name in own and not name.startswith("head.")}
