"""A multinomial logistic regression of one label: optimizer, weight decay, head, pre-training method, root.

Classes weigh the same however many checkpoints they have, as they do in the score, balanced accuracy. The penalty with
the best score on val wins, the strongest among equals.

All penalties are fitted at once by accelerated gradient steps. In the basis of `Inputs` the curvature of the loss is at most
a multiple of S² + penalty, so each coefficient has a step size of its own, and every step is two matrix products
(Böhning: Multinomial logistic regression algorithm, 1992, bounds the curvature).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import scipy.special
from jaxtyping import Bool, Float, Int, Shaped

from wsl.probes.inputs import Inputs
from wsl.probes.metrics import Metric, balanced_accuracy, whole
from wsl.probes.probe import Linear, Measured, Penalties, Targets

_STEPS = 60
_CHANGE = 2e-3  # of the coefficients in one step, below which weak penalties need no last digit


@dataclass(kw_only=True, eq=False)
class Classification:
    """A probe of a label in the zoo's frame, scored by balanced accuracy.

    Args:
        column: the column of `zoo.frame`; each distinct value is a class.
        trivial: whether the label can be read from the shapes of the weights.
    """

    column: str
    trivial: bool
    metrics: Mapping[str, Metric] = field(init=False, default_factory=lambda: {"balanced_accuracy": balanced_accuracy})

    def targets(self, frame: pd.DataFrame) -> tuple[Shaped[np.ndarray, "N"], Bool[np.ndarray, "N"]]:
        """Returns the labels as strings, and which are known."""
        known = frame[self.column].notna().to_numpy()
        values = np.full(len(frame), "", dtype=object)
        values[known] = frame[self.column][known].astype(str)  # of a column with empty cells, to_numpy(dtype=str) cuts texts off
        return values.astype(str), known

    def predictable(self, train: Shaped[np.ndarray, "N"], test: Shaped[np.ndarray, "M"]) -> bool:
        """Tells whether there is more than one class in train, and it has all that test has."""
        return len(np.unique(train)) > 1 and set(np.unique(test)) <= set(np.unique(train))

    def chance(self, metric: str, truth: Shaped[np.ndarray, "N"]) -> float:
        """Returns 1 / classes."""
        return 1 / len(np.unique(truth))

    def noise_ceiling(self, metric: str, frame: pd.DataFrame, measured: Measured, *, rng: np.random.Generator) -> float:
        """Returns 1: a label does not depend on the test images."""
        return 1.0

    def fit(self, inputs: Inputs, train: Targets, val: Targets, *, penalties: Penalties) -> Linear:
        """Returns the regression in the basis of `inputs`; see `Probe.fit`."""
        classes, labels = np.unique(train.values, return_inverse=True)
        if len(classes) == 1:
            return Linear(np.zeros((inputs.train.shape[1], 1)), np.zeros(1), tuple(map(str, classes)))
        strongest_first = np.array(sorted(penalties, reverse=True))
        found = logistic(inputs.train, inputs.strengths, labels, strongest_first)
        fitted = [Linear(*pair, tuple(map(str, classes))) for pair in zip(*found, strict=True)]
        return max(fitted, key=lambda linear: whole(balanced_accuracy, val.values, linear.predict(inputs.val)))

    def predict_permuted(self, inputs: Inputs, train: Targets, val: Targets, **_: Any) -> Shaped[np.ndarray, "R N"]:
        """Returns no rows: a label has chance beside it instead of this control."""
        return np.empty((0, len(inputs.test)), dtype=train.values.dtype)


def logistic(
    inputs: Float[np.ndarray, "N C"],
    strengths: Float[np.ndarray, "C"],
    labels: Int[np.ndarray, "N"],
    penalties: Float[np.ndarray, "P"],
) -> tuple[Float[np.ndarray, "P C K"], Float[np.ndarray, "P K"]]:
    """Fits balanced logistic regressions, one per penalty (per checkpoint); two classes need one column (K = 1).

    The columns of `inputs` are orthogonal, with mean 0 and norms `strengths`.
    """
    n, n_classes = len(labels), int(labels.max()) + 1
    of_class = (labels[:, None] == np.arange(n_classes)).astype(np.float32)
    weight = (of_class @ (n / (n_classes * of_class.sum(0))))[:, None, None].astype(np.float32)
    truth = (of_class[:, 1:] if n_classes == 2 else of_class)[:, None]
    size = (len(penalties), truth.shape[2])
    x = np.column_stack([inputs, np.ones(n)]).astype(np.float32)  # the intercept is the last coefficient
    curvature = (0.25 if n_classes == 2 else 0.5) * weight.max() * np.append(strengths**2, n)
    penalty = np.outer(np.append(np.ones(len(strengths)), 1e-9), penalties * n)
    step_size = (1 / (curvature[:, None] + penalty)).astype(np.float32)[..., None]
    shrink = penalty.astype(np.float32)[..., None]

    now = np.zeros((x.shape[1], *size), dtype=np.float32)
    ahead = now
    momentum = 1.0
    for _ in range(_STEPS):
        error = weight * (_probabilities((x @ ahead.reshape(len(now), -1)).reshape(n, *size)) - truth)
        slope = (x.T @ error.reshape(n, -1)).reshape(now.shape) + shrink * ahead
        following = ahead - step_size * slope
        change = following - now
        momentum, before = (1 + np.sqrt(1 + 4 * momentum**2)) / 2, momentum
        if np.sum(slope * change) > 0:  # the momentum leads uphill
            momentum, before = 1.0, 1.0
        ahead = (following + (before - 1) / momentum * change).astype(np.float32)
        now = following
        if np.linalg.norm(change) < _CHANGE * np.linalg.norm(now):
            break
    now = np.moveaxis(now.astype(float), 0, 1)
    return now[:, :-1], now[:, -1]


def _probabilities(scores: Float[np.ndarray, "N P K"]) -> Float[np.ndarray, "N P K"]:
    """Returns softmax over classes, or for one column the logistic function."""
    if scores.shape[2] == 1:
        return 1 / (1 + np.exp(-np.clip(scores, -30, 30)))
    return scipy.special.softmax(scores, axis=2)
