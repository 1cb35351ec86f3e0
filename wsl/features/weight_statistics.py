"""Statistics of every tensor: mean, variance and quantiles, the baseline that is hard to beat.

Unterthiner, Keysers, Gelly, Bousquet, Tolstikhin: Predicting Neural Network Accuracy from Weights (arXiv 2002.11448).
They take the mean, the variance and the quantiles 0, 25, 50, 75 and 100 % per tensor of the weights; `reference: root`
takes the same of what fine-tuning has changed.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from wsl.data.cache import cached
from wsl.data.invariants import statistics
from wsl.data.stacks import Reference, tensor_table
from wsl.features.features import Features, lack_of_roots
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

    def lack(self, zoo: Zoo) -> str:
        """Returns what a zoo lacks; see `Features.lack`."""
        return lack_of_roots(zoo) if self.reference == "root" else ""

    def extract(self, run: Run, checkpoints: Zoo) -> pd.DataFrame:
        """Returns the statistics of each checkpoint (N F), columns `<tensor>/<statistic>`; see `Features.extract`."""
        return cached(self, checkpoints, lambda: tensor_table(checkpoints, reference=self.reference, describe=self._describe))

    def _describe(self, tensor: Tensor) -> dict[str, Float[np.ndarray, "K"]]:
        names = ["mean", "variance", *(f"q{100 * q:g}" for q in self.quantiles)]
        return dict(zip(names, statistics(tensor.flatten(1).numpy(), self.quantiles).T, strict=True))
