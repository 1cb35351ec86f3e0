"""A root with a head that is fitted on train images: what labels alone give, without any fine-tuned model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from wsl.generators.family import Family, FamilySampler, Sample
from wsl.generators.random_init import NewHead
from zoo_gen.architecture import skeleton
from zoo_gen.errors import InputError

ITERATIONS = 500
"""Most steps of a fit; a hundred is usual. Each counts as one gradient evaluation."""


@dataclass(kw_only=True, eq=False)
class FittedHead(FamilySampler):
    """A family's root with a new head, whose last layer is a logistic regression on a bootstrap of the train images.

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
        self.gradient_evaluations = 0
        return super().fit(self._new.families)

    def sample(self, n: int, rng: np.random.Generator) -> list[Sample]:
        """Draws n heads, each with images of its own."""
        return [(family, self._fitted(family, state, rng)) for family, state in self._new.sample(n, rng)]

    def _fitted(self, family: Family, state: Mapping[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        pixels, labels = family.pixels, family.labels
        assert pixels is not None  # or `fit` would have raised
        assert labels is not None
        chosen = torch.from_numpy(rng.integers(len(labels), size=min(len(labels), self.images)))
        name, features = _features(family.architecture, state, pixels[chosen])
        regression = LogisticRegression(C=1 / self.penalty, max_iter=ITERATIONS, tol=1e-3).fit(features, labels[chosen].numpy())
        self.gradient_evaluations += int(regression.n_iter_.max())
        rows, shifts = regression.coef_, regression.intercept_
        if len(rows) == 1:  # of two classes there is one, which stands for the second
            rows, shifts = np.concatenate([-rows, rows]) / 2, np.concatenate([-shifts, shifts]) / 2
        lowest = float((features @ rows.T + shifts).min())
        weight, bias = (
            torch.zeros_like(state[f"{name}.weight"]),
            torch.full_like(state[f"{name}.bias"], lowest),
        )  # of absent classes
        weight[regression.classes_] = torch.from_numpy(rows).to(weight)
        bias[regression.classes_] = torch.from_numpy(shifts).to(bias)
        return {**state, f"{name}.weight": weight, f"{name}.bias": bias}


@torch.no_grad()
def _features(architecture: Mapping[str, Any], state: Mapping[str, Tensor], pixels: Tensor) -> tuple[str, np.ndarray]:
    """Returns the name of the last linear layer of a model, and what it reads of images (N F)."""
    model = skeleton(architecture)
    model.load_state_dict(dict(state), assign=True)
    name, layer = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    seen: list[Tensor] = []
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for piece in pixels.split(256):
        model.eval()(piece)
    return name, torch.cat(seen).numpy()
