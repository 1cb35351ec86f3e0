"""Logarithms of the singular values and norms of every tensor, a hand-made baseline that knows how large and how low-rank it is."""

import numpy as np
import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from wsl.features.cache import cached
from wsl.features.features import Features
from wsl.features.stacks import Columns, Reference, stacks
from wsl.run import Run
from zoo_gen import Zoo

_FLOOR = 1e-8  # what float32 leaves of a zero


class Spectra(Features):
    """Log singular values of each tensor as a matrix (last axis but those of size one against the rest), and its log norms.

    Args:
        reference: `none` for the weights themselves, `root` for their difference to the root's (heads as they are).
        values: at most so many singular values per tensor, the first, the last, and evenly spaced ones between.
    """

    def __init__(self, *, reference: Reference, values: int) -> None:
        self.reference: Reference = reference
        self.values = values

    def extract(self, run: Run, checkpoints: Zoo) -> pd.DataFrame:
        """Returns the spectra of each checkpoint (N F), columns `<tensor>/<what>`; see `Features.extract`."""
        return cached(self, checkpoints, lambda: self._compute(checkpoints))

    def _compute(self, checkpoints: Zoo) -> pd.DataFrame:
        columns = Columns(len(checkpoints))
        for rows, weights in stacks(checkpoints, reference=self.reference):
            for name, tensor in weights.items():
                found = spectrum(tensor, self.values)
                columns.put(name, rows, found, ["l1", "l2", "max", *(f"s{i}" for i in range(found.shape[1] - 3))])
        return columns.frame()


def spectrum(stack: Tensor, values: int) -> Float[np.ndarray, "K S"]:
    """Returns log norms (mean absolute, root mean square, largest) and log singular values; NaN for what is not finite."""
    flat = stack.double().flatten(1)
    finite = flat.isfinite().all(1, keepdim=True)
    flat = torch.where(finite, flat, 0)
    found = [flat.abs().mean(1, keepdim=True), flat.square().mean(1, keepdim=True).sqrt(), flat.abs().amax(1, keepdim=True)]
    shape = [size for size in stack.shape[1:] if size > 1]
    if len(shape) > 1:
        matrix = rearrange(flat, "k (a b) -> k a b", a=shape[0])
        small = matrix @ matrix.mT if matrix.shape[1] <= matrix.shape[2] else matrix.mT @ matrix
        singular = torch.linalg.eigvalsh(small).clamp(min=0).sqrt().flip(1)  # three times as fast as svdvals
        at = torch.linspace(0, singular.shape[1] - 1, min(values, singular.shape[1])).round().long()
        found.append(singular[:, at])
    return torch.where(finite, torch.cat(found, 1).clamp(min=_FLOOR).log(), torch.nan).numpy()
