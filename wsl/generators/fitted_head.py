"""A root with a head that is fitted on train images: what labels alone give, without any fine-tuned model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from wsl.generators.family import Family, FamilySampler, Sample
from wsl.generators.random_init import NewHead
from wsl.operations.head_fit import HeadFit
from wsl.operations.targets import Targets
from zoo_gen.errors import InputError


@dataclass(kw_only=True, eq=False)
class FittedHead(FamilySampler):
    """A family's root with a new head, whose last layer is fitted to a bootstrap of the train images (`wsl.operations.head_fit`).

    Args:
        penalty: inverse of scikit-learn's C: the weight of the squared norm of the head.
        images: most images of a bootstrap.
    """

    uses: ClassVar[str] = "labels"

    penalty: float
    images: int

    def fit(self, families: Sequence[Family]) -> Self:
        """Keeps families whose root and architecture are known. Raises `InputError` if there are none, or no labelled images."""
        if any(family.pixels is None or family.labels is None for family in families):
            raise InputError("heads cannot be fitted, as the labelled train images of the zoo are not known")
        self._new = NewHead().fit(families)
        self.gradient_evaluations = 0.0
        return super().fit(self._new.families)

    def sample(self, n: int, rng: np.random.Generator) -> list[Sample]:
        """Draws n heads, each with images of its own. A gradient of a head on all of its images counts as one evaluation."""
        return [(family, self._fitted(family, state, rng)) for family, state in self._new.sample(n, rng)]

    def _fitted(self, family: Family, state: Mapping[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        pixels, labels = family.pixels, family.labels
        assert pixels is not None  # or `fit` would have raised
        assert labels is not None
        chosen = torch.from_numpy(rng.integers(len(labels), size=min(len(labels), self.images)))
        operation = HeadFit(penalty=self.penalty / len(chosen), tolerance=1e-4, steps=100)
        targets = Targets.labels(labels[chosen], family.architecture["num_classes"])
        found = operation(family.architecture, [state], pixels[chosen], targets)
        self.gradient_evaluations += found.cost.head_gradients
        return found.states[0]
