"""What a probe is: a target, a way to predict it from features, and the metrics that judge the prediction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from wsl.metrics import Metric


@dataclass(frozen=True)
class Sample:
    """Checkpoints as a probe sees them: features (NaN where one lacks a tensor), the answer, and the model of each."""

    features: Float[np.ndarray, "N F"]
    targets: Shaped[np.ndarray, "N"]
    models: Int[np.ndarray, "N"]


class Probe(Protocol):
    """A question: train checkpoints fit the answer, val checkpoints choose its penalty, test checkpoints are asked."""

    trivial: bool
    """Whether the answer can be read from the shapes of the weights."""

    metrics: Mapping[str, Metric]
    """The scores by name."""

    def targets(self, frame: pd.DataFrame) -> tuple[Shaped[np.ndarray, "N"], Bool[np.ndarray, "N"]]:
        """Returns the answer for each row of `zoo.frame`, and whether it is known."""
        ...

    def answerable(self, train: Shaped[np.ndarray, "N"], test: Shaped[np.ndarray, "M"]) -> bool:
        """Tells whether there is anything to predict: the answers differ within train and within test."""
        ...

    def chance(self, metric: str, truth: Shaped[np.ndarray, "N"]) -> float:
        """Returns the score of a probe that knows nothing."""
        ...

    def ceiling(self, metric: str, frame: pd.DataFrame, *, images: int, rng: np.random.Generator) -> float:
        """Returns the score of the truth against itself remeasured on a bootstrap of the test images; NaN if unknown.

        Args:
            metric: a name in `metrics`.
            frame: the test checkpoints, rows of `zoo.frame`.
            images: number of test images that the results were measured on.
            rng: the randomness of the bootstrap.
        """
        ...

    def predict(
        self, train: Sample, val: Sample, test: Float[np.ndarray, "N F"], *, penalties: Sequence[float]
    ) -> Shaped[np.ndarray, "N"]:
        """Returns the answers for the test features, by the penalty that is best on val."""
        ...

    def predict_shuffled(
        self,
        train: Sample,
        val: Sample,
        test: Float[np.ndarray, "N F"],
        *,
        penalties: Sequence[float],
        shuffles: int,
        rng: np.random.Generator,
    ) -> Shaped[np.ndarray, "R N"]:
        """Returns answers of probes fitted to shuffled targets, one row per shuffle; no rows for probes without it."""
        ...


@dataclass(frozen=True)
class Standardizer:
    """Zero mean and unit variance per feature, as seen on train; what is absent (NaN) or constant becomes 0."""

    mean: Float[np.ndarray, "F"]
    scale: Float[np.ndarray, "F"]

    @classmethod
    def fit(cls, features: Float[np.ndarray, "N F"]) -> "Standardizer":
        """Returns the standardiser of train features."""
        present = np.isfinite(features)
        n = np.maximum(present.sum(axis=0), 1)
        mean = np.where(present, features, 0).sum(axis=0) / n
        deviation = np.sqrt(np.where(present, (features - mean) ** 2, 0).sum(axis=0) / n)
        constant = deviation <= 1e-6 * np.abs(mean)  # what is left is the rounding of float32
        return cls(mean, np.where(constant, np.inf, deviation))

    def __call__(self, features: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N F"]:
        """Returns standardised features."""
        return np.where(np.isfinite(features), (features - self.mean) / self.scale, 0)
