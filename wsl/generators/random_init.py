"""Models that no fine-tuning has touched: random weights, or the root with a random head."""

import numpy as np

from wsl.generators.family import FamilySampler, Sample, draw_families
from zoo_gen.architecture import initialize


class RandomInit(FamilySampler):
    """A whole model with random weights, as its architecture initialises them."""

    def sample(self, n: int, rng: np.random.Generator) -> list[Sample]:
        """Draws n initialisations."""
        drawn = draw_families(self.families, n, rng)
        return [(family, initialize(family.architecture, int(rng.integers(2**63)))) for family in drawn]


class NewHead(FamilySampler):
    """A family's root with a new random head: the model that fine-tuning starts from."""

    def sample(self, n: int, rng: np.random.Generator) -> list[Sample]:
        """Draws n heads, each on the root of its family."""
        samples = []
        for family, state in RandomInit().fit(self.families).sample(n, rng):
            body = {name: tensor for name, tensor in family.root_state.items() if name in state and not name.startswith("head.")}
            samples.append((family, state | body))
        return samples
