"""Statistics of every tensor: mean, variance and quantiles, the baseline that is hard to beat.

Unterthiner, Keysers, Gelly, Bousquet, Tolstikhin: Predicting Neural Network Accuracy from Weights (arXiv 2002.11448).
They take the mean, the variance and the quantiles 0, 25, 50, 75 and 100 % per tensor of the weights; `reference: root`
takes the same of what fine-tuning has changed.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from wsl.features.cache import cached
from wsl.features.features import Features
from wsl.features.stacks import Columns, Reference, stacks
from wsl.run import Run
from zoo_gen import Zoo


class WeightStatistics(Features):
    """The mean, variance and quantiles of each tensor, and whether a checkpoint has it.

    Args:
        reference: `none` for the weights themselves, `root` for their difference to the root's (heads as they are).
        quantiles: which quantiles, between 0 and 1.
    """

    def __init__(self, *, reference: Reference, quantiles: Sequence[float]) -> None:
        self.reference: Reference = reference
        self.quantiles = list(quantiles)

    def extract(self, run: Run, checkpoints: Zoo) -> pd.DataFrame:
        """Returns the statistics of each checkpoint (N F), columns `<tensor>/<statistic>`; see `Features.extract`."""
        return cached(self, checkpoints, lambda: self._compute(checkpoints))

    def _compute(self, checkpoints: Zoo) -> pd.DataFrame:
        names = ["mean", "variance", *(f"q{100 * q:g}" for q in self.quantiles)]
        columns = Columns(len(checkpoints))
        for rows, weights in stacks(checkpoints, reference=self.reference):
            for name, tensor in weights.items():
                columns.put(name, rows, statistics(tensor.flatten(1).numpy(), self.quantiles), names)
        return columns.frame()


def statistics(values: Float[np.ndarray, "K W"], quantiles: Sequence[float]) -> Float[np.ndarray, "K S"]:
    """Returns mean, variance and quantiles (linear between neighbours) of each row; NaN if it is not finite."""
    finite = np.isfinite(values).all(axis=1, keepdims=True)
    ordered = np.sort(np.where(finite, values, 0), axis=1)  # ten times faster than np.quantile
    at = np.asarray(quantiles) * (values.shape[1] - 1)
    below, above = np.floor(at).astype(int), np.ceil(at).astype(int)
    inside = ordered[:, below] + (at - below) * (ordered[:, above].astype(np.float64) - ordered[:, below])
    moments = [ordered.mean(axis=1, dtype=np.float64), ordered.var(axis=1, dtype=np.float64)]
    return np.where(finite, np.column_stack([*moments, inside]), np.nan)
