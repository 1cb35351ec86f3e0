"""A ridge regression of one number: test accuracy, a gap, the logarithm of an epoch or of a learning rate.

With standardised features X = U S V', targets y, their mean ȳ, and penalty λ (per checkpoint: the same for any N),

    ŷ = ȳ + X_test V (S² + λN)⁻¹ S U'(y - ȳ),

for every penalty and any number of shuffled targets at once. The penalty with the smallest squared error
on val wins, and it has to beat ȳ, the infinite penalty, by one standard error over the val models: a probe that cannot
be told from the mean answers the mean. So a target that has nothing to do with the features scores about 0, not a noisy
negative number.

The control shuffles the targets of train and val between models *and* within each model. Whole models alone would not
do: the epochs of a model come in the same order in all of them, and the order would give the epoch away.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from wsl.metrics import Metric, kendall_tau, r2, whole
from wsl.probes.inputs import Inputs
from wsl.probes.probe import Answers

_REMEASURED = 100  # bootstraps of the test images behind a ceiling

_SCALES = {"linear": np.asarray, "log": np.log, "log10": np.log10}


class Regression:
    """A probe of a number in the zoo's frame, scored by R2 and Kendall's tau.

    Args:
        column: the column of `zoo.frame`.
        scale: what is predicted: the number or its logarithm.
        noise: how the number would change on other test images: not at all (a factor), like a share of them (an
            accuracy or a difference of accuracies), or in a way that the frame does not tell (a loss).
        trivial: whether the answer can be read from the shapes of the weights.
    """

    metrics: Mapping[str, Metric] = {"r2": r2, "kendall_tau": kendall_tau}

    def __init__(
        self,
        column: str,
        *,
        scale: Literal["linear", "log", "log10"],
        noise: Literal["none", "binomial", "unknown"],
        trivial: bool,
    ) -> None:
        self.column, self.scale, self.noise, self.trivial = column, scale, noise, trivial

    def targets(self, frame: pd.DataFrame) -> tuple[Float[np.ndarray, "N"], Bool[np.ndarray, "N"]]:
        """Returns the numbers on their scale, and which are finite."""
        with np.errstate(divide="ignore", invalid="ignore"):
            values = _SCALES[self.scale](frame[self.column].to_numpy(dtype=float, na_value=np.nan))
        return values, np.isfinite(values)

    def answerable(self, train: Float[np.ndarray, "N"], test: Float[np.ndarray, "M"]) -> bool:
        """Tells whether the numbers vary within train and within test."""
        return len(np.unique(train)) > 1 and len(np.unique(test)) > 1

    def chance(self, metric: str, truth: Float[np.ndarray, "N"]) -> float:
        """Returns 0, the score of the mean, for both metrics."""
        return 0.0

    def ceiling(self, metric: str, frame: pd.DataFrame, *, images: int, rng: np.random.Generator) -> float:
        """Returns the mean score of the truth against itself remeasured; see `Probe.ceiling`."""
        if self.noise != "binomial":
            return 1.0 if self.noise == "none" else np.nan
        truth, _ = self.targets(frame)
        accuracy = frame["test_accuracy"].to_numpy(dtype=float)
        remeasured = truth + rng.binomial(images, accuracy, size=(_REMEASURED, len(truth))) / images - accuracy
        return float(np.mean([whole(self.metrics[metric], again, truth) for again in remeasured]))

    def predict(self, inputs: Inputs, train: Answers, val: Answers, *, penalties: Sequence[float]) -> Float[np.ndarray, "N"]:
        """Returns the predictions for the test inputs; see `Probe.predict`."""
        return _ridge(inputs, train.targets[None], val.targets[None], val.models, penalties)[0]

    def predict_shuffled(
        self,
        inputs: Inputs,
        train: Answers,
        val: Answers,
        *,
        penalties: Sequence[float],
        shuffles: int,
        rng: np.random.Generator,
    ) -> Float[np.ndarray, "R N"]:
        """Returns predictions for the test inputs after fitting shuffled targets; see `Probe.predict_shuffled`."""
        of_train = np.stack([shuffle_models(train.targets, train.models, rng=rng) for _ in range(shuffles)])
        of_val = np.stack([shuffle_models(val.targets, val.models, rng=rng) for _ in range(shuffles)])
        return _ridge(inputs, of_train, of_val, val.models, penalties)


def shuffle_models(
    targets: Float[np.ndarray, "N"], models: Int[np.ndarray, "N"], *, rng: np.random.Generator
) -> Float[np.ndarray, "N"]:
    """Gives every model the targets of another one, in random order: as clustered as the truth, and unrelated to it."""
    blocks = [rng.permutation(targets[models == model]) for model in rng.permutation(np.unique(models))]
    shuffled = np.empty_like(targets)
    shuffled[np.argsort(models, kind="stable")] = np.concatenate(blocks)
    return shuffled


def _ridge(
    inputs: Inputs,
    train_targets: Float[np.ndarray, "R N"],
    val_targets: Float[np.ndarray, "R V"],
    val_models: Int[np.ndarray, "V"],
    penalties: Sequence[float],
) -> Float[np.ndarray, "R T"]:
    """Predicts R targets at once, each by its own best penalty."""
    mean = train_targets.mean(axis=1, keepdims=True)
    projected = (train_targets - mean) @ inputs.train

    _, models = np.unique(val_models, return_inverse=True)
    of_model = (np.arange(models.max() + 1)[:, None] == models) / np.bincount(models)[:, None]
    mean_error = (val_targets - mean) ** 2 @ of_model.T  # one number per target and val model

    best_error = np.full(len(mean), np.inf)
    best_gain = np.zeros_like(mean_error)
    predictions = np.repeat(mean, len(inputs.test), axis=1)
    for penalty in penalties:
        coefficients = projected / (inputs.strengths**2 + penalty * len(inputs.train))
        error = (val_targets - mean - coefficients @ inputs.val.T) ** 2 @ of_model.T
        better = error.mean(axis=1) < best_error
        best_error = np.where(better, error.mean(axis=1), best_error)
        best_gain = np.where(better[:, None], mean_error - error, best_gain)
        predictions = np.where(better[:, None], mean + coefficients @ inputs.test.T, predictions)
    standard_error = best_gain.std(axis=1) / np.sqrt(max(best_gain.shape[1] - 1, 1))
    convincing = best_gain.mean(axis=1) > standard_error
    return np.where(convincing[:, None], predictions, mean)
