"""The protocol of probes: a target, a prediction of it from inputs, and the metrics of that prediction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from wsl.probes.inputs import Inputs
from wsl.probes.metrics import Metric
from zoo_gen import Zoo

Penalties = Sequence[float]


def probed_checkpoints(zoo: Zoo) -> Zoo:
    """Returns the checkpoints that probes are about: those of fine-tuned models, without those whose model has diverged."""
    children = zoo.select(stage="finetune")
    diverged = (children.frame["status"] == "diverged") & children.frame["test_loss"].isna()
    return children.select(path=children.frame["path"][~diverged].tolist())


@dataclass(frozen=True)
class Targets:
    """The true values of some checkpoints, and the model of each."""

    values: Shaped[np.ndarray, "N"]
    models: Int[np.ndarray, "N"]


@dataclass(frozen=True)
class Linear:
    """A fitted probe: features @ coefficients + intercepts are the predictions, or the scores of `classes`.

    Two classes have one score: the second's, on the logistic scale.
    """

    coefficients: Float[np.ndarray, "C K"]
    intercepts: Float[np.ndarray, "K"]
    classes: tuple[str, ...] = ()

    def __call__(self, features: Float[np.ndarray, "N C"]) -> Float[np.ndarray, "N K"]:
        """Returns predictions or scores."""
        return features @ self.coefficients + self.intercepts

    def predict(self, features: Float[np.ndarray, "N C"]) -> Shaped[np.ndarray, "N"]:
        """Returns numbers, or the most probable of the classes."""
        scores = self(features)
        if not self.classes:
            return scores[:, 0]
        best = scores.argmax(axis=1) if scores.shape[1] > 1 else (scores[:, 0] > 0).astype(int)
        return np.array(self.classes)[best]


@dataclass(frozen=True)
class Measured:
    """Loss, and accuracy (1 or 0), of checkpoints on each of the test images; NaN where not measured."""

    loss: Float[np.ndarray, "N I"]
    accuracy: Float[np.ndarray, "N I"]


@runtime_checkable
class Probe(Protocol):
    """A target and its linear model: train checkpoints fit it, and val checkpoints choose its penalty."""

    column: str
    """The column of `zoo.frame` that is predicted."""

    trivial: bool
    """Whether the target can be read from the shapes of the weights."""

    metrics: Mapping[str, Metric]
    """The scores by name."""

    def targets(self, frame: pd.DataFrame) -> tuple[Shaped[np.ndarray, "N"], Bool[np.ndarray, "N"]]:
        """Returns the true value of each row of `zoo.frame`, and whether it is known."""
        ...

    def predictable(self, train: Shaped[np.ndarray, "N"], test: Shaped[np.ndarray, "M"]) -> bool:
        """Tells whether the values of test can be predicted from those of train: they differ there, and no label is new."""
        ...

    def chance(self, metric: str, truth: Shaped[np.ndarray, "N"]) -> float:
        """Returns the score of a probe that knows nothing."""
        ...

    def noise_ceiling(self, metric: str, frame: pd.DataFrame, measured: Measured, *, rng: np.random.Generator) -> float:
        """Returns the score of the truth against its re-evaluation on a bootstrap of the test images; NaN if unknown.

        `frame` has the rows of test checkpoints, and `measured` their results image by image.
        """
        ...

    def fit(self, inputs: Inputs, train: Targets, val: Targets, *, penalties: Penalties) -> Linear:
        """Returns the probe in the basis of `inputs`, by the penalty that is best on val."""
        ...

    def predict_permuted(
        self, inputs: Inputs, train: Targets, val: Targets, *, penalties: Penalties, n_permutations: int, rng: np.random.Generator
    ) -> Shaped[np.ndarray, "R N"]:
        """Returns predictions less the mean of train after fitting permuted targets, one row per permutation.

        A probe without this control returns no rows.
        """
        ...
