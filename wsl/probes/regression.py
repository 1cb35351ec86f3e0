"""A ridge regression of one number: test accuracy, a gap, the logarithm of an epoch or of a learning rate.

With standardised features X = U S V', targets y, their mean ȳ, and penalty λ (per checkpoint: the same for any N),

    ŷ = ȳ + X_test V (S² + λN)⁻¹ S U'(y - ȳ),

for every penalty and any number of permuted targets at once. The penalty with the smallest squared error
on val wins, and it has to beat ȳ, the infinite penalty, by one standard error over the val models: otherwise the probe predicts
the mean. So a target that has nothing to do with the features scores about 0, not a noisy negative number.

The control permutes the targets of train and val between models *and* within each model. Whole models alone would not
do: the epochs of a model come in the same order in all of them, and the order would give the epoch away. Its predictions are
taken relative to ȳ: where the folds of a cross-fit are pooled, ȳ is low in the fold whose test models are good, because they are
not in it, and ȳ alone would order the folds upside down (a tau of -.1 to -.3 for roots that differ).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from wsl.probes.inputs import Inputs
from wsl.probes.metrics import Metric, kendall_tau, r2, whole
from wsl.probes.probe import Linear, Measured, Penalties, Targets

_RE_EVALUATIONS = 100  # bootstraps of the test images behind a noise ceiling

_SCALES = {"linear": np.asarray, "log": np.log, "log10": np.log10}
_INVERSES = {"linear": np.asarray, "log": np.exp, "log10": lambda values: 10.0**values}


@dataclass(kw_only=True, eq=False)
class Regression:
    """A probe of a number in the zoo's frame, scored by R2 and Kendall's tau.

    Args:
        column: the column of `zoo.frame`.
        scale: what is predicted: the number or its logarithm.
        measured: which result on test images the number contains; `none` if it does not depend on them (a factor).
        sign: with which sign it does.
        trivial: whether the number can be read from the shapes of the weights.
        bounds: the smallest and the largest value that the number can have, infinite where there is none.
    """

    column: str
    scale: Literal["linear", "log", "log10"]
    measured: Literal["none", "accuracy", "loss"]
    sign: Literal[1, -1]
    trivial: bool
    bounds: Sequence[float]
    metrics: Mapping[str, Metric] = field(init=False, default_factory=lambda: {"r2": r2, "kendall_tau": kendall_tau})

    def targets(self, frame: pd.DataFrame) -> tuple[Float[np.ndarray, "N"], Bool[np.ndarray, "N"]]:
        """Returns the numbers on their scale, and which are finite."""
        with np.errstate(divide="ignore", invalid="ignore"):
            values = _SCALES[self.scale](frame[self.column].to_numpy(dtype=float, na_value=np.nan))
        return values, np.isfinite(values)

    def restore(self, values: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
        """Returns numbers, within their bounds, from what they are on the scale of the probe."""
        low, high = self.bounds
        return np.clip(_INVERSES[self.scale](values), low, high)

    def predictable(self, train: Float[np.ndarray, "N"], test: Float[np.ndarray, "M"]) -> bool:
        """Tells whether the numbers vary within train."""
        return len(np.unique(train)) > 1

    def chance(self, metric: str, truth: Float[np.ndarray, "N"]) -> float:
        """Returns 0, the score of the mean, for both metrics."""
        return 0.0

    def noise_ceiling(self, metric: str, frame: pd.DataFrame, measured: Measured, *, rng: np.random.Generator) -> float:
        """Returns the mean score of the truth against its bootstrap re-evaluations; see `Probe.noise_ceiling`."""
        if self.measured == "none":
            return 1.0
        by_image = measured.loss if self.measured == "loss" else measured.accuracy
        truth, known = self.targets(frame)
        known &= np.isfinite(by_image).all(axis=1)
        if not known.any():
            return np.nan
        truth, by_image = truth[known], by_image[known]
        images = by_image.shape[1]
        counts = rng.multinomial(images, np.full(images, 1 / images), size=_RE_EVALUATIONS)
        changes = self.sign * (counts @ by_image.T / images - by_image.mean(axis=1))
        return float(np.mean([whole(self.metrics[metric], truth + change, truth) for change in changes]))

    def fit(self, inputs: Inputs, train: Targets, val: Targets, *, penalties: Penalties) -> Linear:
        """Returns the regression in the basis of `inputs`; see `Probe.fit`."""
        coefficients = _ridge(inputs, train.values[None], val.values[None], val.models, penalties)
        return Linear(coefficients.T, np.array([train.values.mean()]))

    def predict_permuted(
        self, inputs: Inputs, train: Targets, val: Targets, *, penalties: Penalties, n_permutations: int, rng: np.random.Generator
    ) -> Float[np.ndarray, "R N"]:
        """Returns predictions for the test inputs after fitting permuted targets; see `Probe.predict_permuted`."""
        of_train = permute_models(train.values, train.models, n_permutations=n_permutations, rng=rng)
        of_val = permute_models(val.values, val.models, n_permutations=n_permutations, rng=rng)
        return _ridge(inputs, of_train, of_val, val.models, penalties) @ inputs.test.T


def permute_models(
    targets: Float[np.ndarray, "N"], models: Int[np.ndarray, "N"], *, n_permutations: int, rng: np.random.Generator
) -> Float[np.ndarray, "R N"]:
    """Gives every model the targets of another one, in random order: as clustered as the truth, and unrelated to it."""
    _, codes = np.unique(models, return_inverse=True)
    places = rng.permuted(np.tile(np.arange(codes.max() + 1), (n_permutations, 1)), axis=1)
    permuted = np.empty((n_permutations, len(targets)), dtype=targets.dtype)
    permuted[:, np.argsort(codes, kind="stable")] = targets[np.argsort(places[:, codes] + rng.random(permuted.shape), axis=1)]
    return permuted


def _ridge(
    inputs: Inputs,
    train_targets: Float[np.ndarray, "R N"],
    val_targets: Float[np.ndarray, "R V"],
    val_models: Int[np.ndarray, "V"],
    penalties: Penalties,
) -> Float[np.ndarray, "R C"]:
    """Returns the coefficients of R targets at once, each by its own best penalty, relative to its mean in train."""
    mean = train_targets.mean(axis=1, keepdims=True)
    projected = (train_targets - mean) @ inputs.train

    _, models = np.unique(val_models, return_inverse=True)
    of_model = (np.arange(models.max() + 1)[:, None] == models) / np.bincount(models)[:, None]
    mean_error = (val_targets - mean) ** 2 @ of_model.T  # one number per target and val model

    best_error = np.full(len(mean), np.inf)
    best_gain = np.zeros_like(mean_error)
    best_penalty = np.full((len(mean), 1), np.inf)
    squares, n = inputs.strengths**2, len(inputs.train)
    for penalty in penalties:
        predictions = (projected / (squares + penalty * n)) @ inputs.val.T
        error = (val_targets - mean - predictions) ** 2 @ of_model.T
        better = error.mean(axis=1) < best_error
        best_error = np.where(better, error.mean(axis=1), best_error)
        best_gain = np.where(better[:, None], mean_error - error, best_gain)
        best_penalty[better] = penalty
    coefficients = projected / (squares + best_penalty * n)
    standard_error = best_gain.std(axis=1) / np.sqrt(max(best_gain.shape[1] - 1, 1))
    convincing = best_gain.mean(axis=1) > standard_error
    return np.where(convincing[:, None], coefficients, 0.0)
