"""Scores of predictions, with intervals that resample whole models.

Every metric is a function `(truth, prediction, groups, counts) -> scores`: `groups` says which model a checkpoint
belongs to, and row r of `counts` how often each model was sampled. All checkpoints of a model go with it, because they
are not independent. Ones give the score itself, `bootstrap_counts` its bootstrap distribution. No metric looks at a
checkpoint twice: each is a ratio of sums over models (R2, balanced accuracy) or over pairs of models (Kendall's tau),

    tau_b = w'Cw / sqrt(w'Yw · w'Pw),

with the counts w, and C, Y, P the sums over two models' pairs of concordance, of untied truths, of untied predictions;
so a thousand resamples cost a matrix product. Two predictions scored on the same `counts` are paired. Of the whole sample alone
tau takes N log N steps, as a control scores hundreds of predictions.
"""

from collections.abc import Callable
from typing import cast

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.stats import kendalltau

Numbers = Float[np.ndarray, "N"]
Values = Shaped[np.ndarray, "N"]
Groups = Int[np.ndarray, "N"]
Counts = Int[np.ndarray, "R G"]
Resampled = Float[np.ndarray, "R"]
Metric = Callable[[Values, Values, Groups, Counts], Resampled]

PAIRS_AT_ONCE = 4_000_000
"""Pairs of checkpoints that Kendall's tau compares in one step, at most."""


def r2(truth: Numbers, prediction: Numbers, groups: Groups, counts: Counts) -> Resampled:
    """Returns the coefficient of determination: 1 is perfect, 0 the mean of the truths; NaN if they are all equal."""
    centred = truth - truth.mean()
    columns = np.stack([np.ones_like(centred), centred, centred**2, (truth - prediction) ** 2], axis=1)
    n, first, second, residual = (counts @ _sum_by_group(columns, groups, counts.shape[1])).T
    with np.errstate(divide="ignore", invalid="ignore"):
        total = second - first**2 / n
        return np.where(total > 1e-10 * second, 1 - residual / total, np.nan)


def kendall_tau(truth: Numbers, prediction: Numbers, groups: Groups, counts: Counts) -> Resampled:
    """Returns Kendall's tau-b, the agreement in order: 0 if all predictions are equal, NaN if all truths are."""
    n_groups = counts.shape[1]
    if n_groups == 1:
        return np.full(len(counts), _tau_of_all(truth, prediction))
    order = np.argsort(groups, kind="stable")
    truth, prediction = truth[order], prediction[order]
    present, starts = np.unique(groups[order], return_index=True)
    sums = np.zeros((3, n_groups, n_groups))
    step = max(1, PAIRS_AT_ONCE // len(truth))
    for start in range(0, len(truth), step):
        rows = slice(start, start + step)
        signs = (np.sign(np.subtract.outer(values[rows], values)) for values in (truth, prediction))
        of_truth, of_prediction = (each.astype(np.float32) for each in signs)
        for total, pairs in zip(sums, (of_truth * of_prediction, np.abs(of_truth), np.abs(of_prediction)), strict=True):
            by_column = np.add.reduceat(pairs, starts, axis=1)  # at most as large as a group is: exact in float32
            total[:, present] += _sum_by_group(by_column, groups[order][rows], n_groups)
    concordant, truths, predictions = (np.einsum("rg,gh,rh->r", counts, total, counts, optimize=True) for total in sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        tau = np.where(predictions > 0, concordant / np.sqrt(truths * predictions), 0.0)
    return np.where(truths > 0, tau, np.nan)


def _tau_of_all(truth: Numbers, prediction: Numbers) -> float:
    """Returns tau-b of one sample in N log N steps."""
    if len(np.unique(truth)) < 2:
        return np.nan
    if len(np.unique(prediction)) < 2:
        return 0.0
    return cast(float, kendalltau(truth, prediction, method="asymptotic" if len(truth) > 2 else "exact")[0])


def balanced_accuracy(truth: Values, prediction: Values, groups: Groups, counts: Counts) -> Resampled:
    """Returns the mean over the classes among the truths of the recall: chance is 1 / classes."""
    of_class = (truth[:, None] == np.unique(truth)).astype(float)
    hits = of_class * (truth == prediction)[:, None]
    n_groups = counts.shape[1]
    with np.errstate(invalid="ignore"):
        recalls = (counts @ _sum_by_group(hits, groups, n_groups)) / (counts @ _sum_by_group(of_class, groups, n_groups))
    return np.nanmean(recalls, axis=1)  # a class that a resample has lost does not count in it


def bootstrap_counts(families: Int[np.ndarray, "G"], *, n_bootstrap: int, rng: np.random.Generator) -> Counts:
    """Samples models with replacement: first as many families as there are, then models within each.

    With one family for all this is the plain bootstrap over models; with the root of each model it is that of
    `leave_root_out`.

    Returns:
        How often each model was sampled, one row per resample.
    """
    codes, sizes = np.unique(families, return_counts=True)
    chosen = rng.multinomial(len(codes), np.full(len(codes), 1 / len(codes)), size=n_bootstrap)
    counts = np.zeros((n_bootstrap, len(families)), dtype=np.int64)
    for i, (code, size) in enumerate(zip(codes, sizes, strict=True)):
        counts[:, families == code] = rng.multinomial(chosen[:, i] * size, np.full(size, 1 / size))
    return counts


def whole(metric: Metric, truth: Values, prediction: Values) -> float:
    """Returns a metric of the whole sample."""
    (value,) = metric(truth, prediction, np.zeros(len(truth), dtype=np.int64), np.ones((1, 1), dtype=np.int64))
    return float(value)


def interval(resampled: Resampled) -> tuple[float, float]:
    """Returns the 2.5 and 97.5 % quantiles of what is defined; NaN if nothing is."""
    resampled = resampled[np.isfinite(resampled)]
    low, high = np.quantile(resampled, [0.025, 0.975]) if len(resampled) else (np.nan, np.nan)
    return float(low), float(high)


def _sum_by_group(values: Float[np.ndarray, "N C"], groups: Int[np.ndarray, "N"], n_groups: int) -> Float[np.ndarray, "G C"]:
    """Sums the rows of each group."""
    return (np.arange(n_groups)[:, None] == groups).astype(float) @ values
