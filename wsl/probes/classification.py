"""A multinomial logistic regression of one label: optimizer, weight decay, head, pre-training method, root.

Classes weigh the same however many checkpoints they have, as they do in the score, balanced accuracy. The penalty with
the best score on val wins, the strongest among equals; each fit starts from that of the next stronger penalty.
"""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Shaped
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from wsl.metrics import Metric, balanced_accuracy, whole
from wsl.probes.inputs import Inputs
from wsl.probes.probe import Answers


class Classification:
    """A probe of a label in the zoo's frame, scored by balanced accuracy.

    Args:
        column: the column of `zoo.frame`; each distinct value is a class.
        trivial: whether the answer can be read from the shapes of the weights.
    """

    metrics: Mapping[str, Metric] = {"balanced_accuracy": balanced_accuracy}

    def __init__(self, column: str, *, trivial: bool) -> None:
        self.column, self.trivial = column, trivial

    def targets(self, frame: pd.DataFrame) -> tuple[Shaped[np.ndarray, "N"], Bool[np.ndarray, "N"]]:
        """Returns the labels as strings, and which are known."""
        return frame[self.column].astype(str).to_numpy(dtype=str), frame[self.column].notna().to_numpy()

    def answerable(self, train: Shaped[np.ndarray, "N"], test: Shaped[np.ndarray, "M"]) -> bool:
        """Tells whether there is more than one class in train and in test."""
        return len(np.unique(train)) > 1 and len(np.unique(test)) > 1

    def chance(self, metric: str, truth: Shaped[np.ndarray, "N"]) -> float:
        """Returns 1 / classes."""
        return 1 / len(np.unique(truth))

    def ceiling(self, metric: str, frame: pd.DataFrame, *, images: int, rng: np.random.Generator) -> float:
        """Returns 1: a label does not depend on the test images."""
        return 1.0

    def predict(self, inputs: Inputs, train: Answers, val: Answers, *, penalties: Sequence[float]) -> Shaped[np.ndarray, "N"]:
        """Returns the labels for the test inputs; see `Probe.predict`."""
        model = LogisticRegression(class_weight="balanced", tol=1e-3, max_iter=100, warm_start=True)
        best_score, best_answer = -1.0, np.array([])
        for penalty in sorted(penalties, reverse=True):
            model.set_params(C=1 / (penalty * len(inputs.train)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # weak penalties need no last digit
                model.fit(inputs.train, train.targets)
            val_score = whole(balanced_accuracy, val.targets, np.asarray(model.predict(inputs.val)))
            if val_score > best_score:
                best_score, best_answer = val_score, np.asarray(model.predict(inputs.test))
        return best_answer

    def predict_shuffled(
        self,
        inputs: Inputs,
        train: Answers,
        val: Answers,
        *,
        penalties: Sequence[float],
        shuffles: int,
        rng: np.random.Generator,
    ) -> Shaped[np.ndarray, "R N"]:
        """Returns no rows: a label has chance beside it instead of this control."""
        return np.empty((0, len(inputs.test)), dtype=train.targets.dtype)
