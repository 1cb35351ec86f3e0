"""Models that no fine-tuning has touched: random weights, or the root with a random head."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from wsl.generators.family import Family, FamilySampler, Sample, draw_families
from zoo_gen.architecture import initialize
from zoo_gen.errors import InputError


class RandomInit(FamilySampler):
    """A whole model with random weights, as its architecture initialises them."""

    def fit(self, families: Sequence[Family]) -> Self:
        """Keeps the families whose architecture is known. Raises `InputError` if there are none."""
        return super().fit(_known(families, "architecture", [family.architecture.get("architecture") for family in families]))

    def sample(self, n: int, rng: np.random.Generator) -> list[Sample]:
        """Draws n initialisations."""
        drawn = draw_families(self.families, n, rng)
        return [(family, initialize(family.architecture, int(rng.integers(2**63)))) for family in drawn]


class NewHead(FamilySampler):
    """A family's root with a new random head: the model that fine-tuning starts from."""

    def fit(self, families: Sequence[Family]) -> Self:
        """Keeps the families whose root and architecture are known. Raises `InputError` if there are none."""
        return super().fit(RandomInit().fit(_known(families, "root", [family.root_state for family in families])).families)

    def sample(self, n: int, rng: np.random.Generator) -> list[Sample]:
        """Draws n heads, each on the root of its family."""
        samples = []
        for family, state in RandomInit().fit(self.families).sample(n, rng):
            root = family.root_state or {}
            body = {name: tensor for name, tensor in root.items() if name in state and not name.startswith("head.")}
            samples.append((family, state | body))
        return samples


def _known(families: Sequence[Family], what: str, values: Sequence[Any]) -> list[Family]:
    found = [family for family, value in zip(families, values, strict=True) if value is not None]
    if not found:
        raise InputError(f"the {what} of no train model is known, which new models would be made of")
    return found
