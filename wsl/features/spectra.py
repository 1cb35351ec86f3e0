"""Logarithms of the singular values and norms of every tensor, a hand-made baseline that knows how large and how low-rank it is."""

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from wsl.data.cache import cached
from wsl.data.invariants import spectrum
from wsl.data.stacks import Reference, tensor_table
from wsl.features.features import Features, lack_of_roots
from wsl.run import Run
from zoo_gen import Zoo


class Spectra(Features):
    """Log singular values of each tensor as a matrix (last axis but those of size one against the rest), and its log norms.

    Args:
        reference: `none` for the weights themselves, `root` for their difference to the root's (heads as they are).
        values: at most so many singular values per tensor, the first, the last, and evenly spaced ones between.
    """

    def __init__(self, *, reference: Reference, values: int) -> None:
        self.reference: Reference = reference
        self.values = values

    def lack(self, zoo: Zoo) -> str:
        """Returns what a zoo lacks; see `Features.lack`."""
        return lack_of_roots(zoo) if self.reference == "root" else ""

    def extract(self, run: Run, checkpoints: Zoo) -> pd.DataFrame:
        """Returns the spectra of each checkpoint (N F), columns `<tensor>/<what>`; see `Features.extract`."""
        return cached(self, checkpoints, lambda: tensor_table(checkpoints, reference=self.reference, describe=self._describe))

    def _describe(self, tensor: Tensor) -> dict[str, Float[np.ndarray, "K"]]:
        found = spectrum(tensor, self.values)
        return dict(zip(["l1", "l2", "max", *(f"s{i}" for i in range(found.shape[1] - 3))], found.T, strict=True))
