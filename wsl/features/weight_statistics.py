"""Statistics of every tensor: mean, variance and quantiles, the baseline that is hard to beat.

Unterthiner, Keysers, Gelly, Bousquet, Tolstikhin: Predicting Neural Network Accuracy from Weights (arXiv 2002.11448).
They take the mean, the variance and the quantiles 0, 25, 50, 75 and 100 % per tensor of the weights; `reference: root`
takes the same of what fine-tuning has changed.
"""

from collections.abc import Sequence

import pandas as pd

from wsl.data.cache import cached
from wsl.data.invariants import statistics
from wsl.data.stacks import Columns, Reference, stacks
from wsl.features.features import Features
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
