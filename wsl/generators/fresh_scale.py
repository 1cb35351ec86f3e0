r"""The scale of novelty and diversity: what freshly trained models of like accuracy have.

With :math:`d_s(x)` the distance of a model to its nearest neighbour in a space :math:`s` (weights or behaviour), the scale is an
isotonic function :math:`e_s(a)` of val accuracy, fitted on fresh models, which no sampler has seen. A ratio is
:math:`r_s(x) = d_s(x) / (c_s\, e_s(a(x)))`, and the verdict :math:`\min_s r_s(x) / c`; the constants make the medians over fresh
models 1. So 1 means: as far as a freshly trained model that is as good.

Accuracy has to be in the scale, since models that are all good agree with each other.
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import isotonic_regression
from scipy.stats import rankdata

from wsl.generators.novelty import median_of

FEWEST = 8
"""Fresh models below which there is no scale of them."""

GRID = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
"""Quantiles of the fresh models' accuracy at which a scale is described."""

Ratios = dict[str, Float[np.ndarray, " S"]]


class FreshScale:
    """A scale in one or two spaces.

    Args:
        accuracy: val accuracy of the fresh models; None for a scale that does not depend on it.
        distances: of the fresh models to their nearest neighbours, by space.
    """

    def __init__(self, accuracy: Float[np.ndarray, " H"] | None, distances: Mapping[str, Float[np.ndarray, " H"]]):
        self._given = accuracy, distances
        self.curves = {space: _curve(accuracy, values) for space, values in distances.items()}
        self._factors = dict.fromkeys(distances, 1.0)
        self._factor = 1.0
        ratios = self.ratios(distances, accuracy)
        self._factors = {space: _positive_median(values) for space, values in ratios.items()}
        self._factor = _positive_median(self.smaller(self.ratios(distances, accuracy)))

    def expected(self, space: str, accuracy: Float[np.ndarray, " S"] | None) -> Float[np.ndarray, " S"]:
        """Returns the distance that fresh models of some accuracies have in the median; NaN where it is not above 0."""
        places, heights = self.curves[space]
        found = np.interp(np.zeros(1) if accuracy is None else accuracy, places, heights) if len(places) else np.full(1, np.nan)
        return self._factors[space] * np.where(found > 0, found, np.nan)

    def ratios(self, distances: Mapping[str, Float[np.ndarray, " S"]], accuracy: Float[np.ndarray, " S"] | None) -> Ratios:
        """Returns distances over those of fresh models of the same accuracy, by space; NaN where there is no scale."""
        return {space: values / self.expected(space, self._used(accuracy)) for space, values in distances.items()}

    def smaller(self, ratios: Ratios) -> Float[np.ndarray, " S"]:
        """Returns the verdict: the smaller ratio of each model, 1 for fresh models in the median.

        Where fresh models agree entirely, as untrained ones do, behaviour has no scale, and weights alone count.
        """
        return np.fmin.reduce(list(ratios.values())) / self._factor

    def resampled(self, chosen: Int[np.ndarray, " H"]) -> Self:
        """Returns the scale of some of the fresh models, which may be chosen repeatedly."""
        accuracy, distances = self._given
        rows = {space: values[chosen] for space, values in distances.items()}
        return type(self)(None if accuracy is None else accuracy[chosen], rows)

    def _used(self, accuracy: Float[np.ndarray, " S"] | None) -> Float[np.ndarray, " S"] | None:
        return None if self._given[0] is None else accuracy


def describe(scale: FreshScale, replicates: list[FreshScale], accuracy: Float[np.ndarray, " H"]) -> list[dict[str, Any]]:
    """Returns what fresh models have at quantiles of their accuracy, with 95 % intervals over resampled fresh models."""
    places = np.quantile(accuracy, GRID)
    rows = []
    for space in scale.curves:
        value = scale.expected(space, places)
        each = np.stack([one.expected(space, places) for one in replicates])
        for i, place in enumerate(places):
            known = each[np.isfinite(each[:, i]), i]
            low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
            rows.append({"space": space, "val_accuracy": place, "distance": value[i], "low": low, "high": high})
    return rows


def expected_nearest(distances: Float[np.ndarray, "S M"], count: int) -> Float[np.ndarray, " S"]:
    """Returns the mean distance to the nearest of `count` others, over all choices of so many among M; infinite for none.

    Others that are infinitely far count as the farthest of the rest: one broken sample moves no others apart.
    """
    others = distances.shape[1]
    if not 0 < count <= others:
        return np.full(len(distances), np.inf)
    farthest = np.where(np.isfinite(distances), distances, -np.inf).max(axis=1, keepdims=True)
    distances = np.where(np.isinf(distances) & np.isfinite(farthest), farthest, distances)
    share, weights = count / others, []
    for j in range(1, others - count + 2):
        weights.append(share)
        share *= (others - j - count + 1) / max(others - j, 1)
    return np.sort(distances, axis=1)[:, : len(weights)] @ np.array(weights)


def _curve(accuracy: np.ndarray | None, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = np.isfinite(values) & (True if accuracy is None else np.isfinite(accuracy))
    if not known.any():
        return np.empty(0), np.empty(0)
    if accuracy is None:
        return np.zeros(1), np.median(values[known], keepdims=True)
    x, y = accuracy[known], values[known]
    rises = bool(np.dot(rankdata(x) - rankdata(x).mean(), rankdata(y)) > 0)
    places, which, counts = np.unique(x, return_inverse=True, return_counts=True)
    means = np.bincount(which, weights=y) / counts
    return places, isotonic_regression(means, weights=counts, increasing=rises).x


def _positive_median(values: np.ndarray) -> float:
    middle = median_of(values[np.isfinite(values)])
    return middle if middle > 0 else float("nan")
