"""Inputs of linear probes: features standardised on train and turned into the basis of its singular vectors.

With X = U S V' for the standardised train features, a probe sees XV = US and the same turn of val and test. A ridge or
logistic regression gives the same predictions in any such basis. Here there are never more unknowns than train checkpoints, a
ridge regression is a division by S² + penalty, and one decomposition serves every target. It is that of the smaller of X'X and XX',
many times as fast as one of X.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_NOTHING = 1e-11  # of the largest variance: what any penalty shrinks to zero, and rounding makes up


@dataclass(frozen=True)
class Inputs:
    """The three sets of a split in one basis; `strengths` are the singular values S of train.

    `standardize(features) @ basis` turns further features into it.
    """

    train: Float[np.ndarray, "N C"]
    val: Float[np.ndarray, "V C"]
    test: Float[np.ndarray, "T C"]
    strengths: Float[np.ndarray, "C"]
    standardize: "Standardizer"
    basis: Float[np.ndarray, "F C"]

    @classmethod
    def of(
        cls,
        train: Float[np.ndarray, "N F"],
        val: Float[np.ndarray, "V F"],
        test: Float[np.ndarray, "T F"],
        *,
        unlabelled: Float[np.ndarray, "U F"] | None = None,
    ) -> "Inputs":
        """Standardises and turns features; nothing is fitted on val or test. Scales are of train, or of `unlabelled`, if given."""
        standardize = Standardizer.fit(train)
        if unlabelled is not None:
            standardize = Standardizer(standardize.mean, Standardizer.fit(unlabelled).scale)
        x = standardize(train)
        if x.shape[0] > x.shape[1]:
            squares, basis = np.linalg.eigh(x.T @ x)
        else:
            squares, left = np.linalg.eigh(x @ x.T)
            basis = x.T @ left / np.sqrt(np.where(squares > _NOTHING * squares.max(), squares, np.inf))
        nonzero = squares > _NOTHING * squares.max()
        basis, strengths = basis[:, nonzero], np.sqrt(squares[nonzero])
        turned = (x @ basis, standardize(val) @ basis, standardize(test) @ basis)
        return cls(*turned, strengths=strengths, standardize=standardize, basis=basis)


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
