r"""Spread: decoded models are to lie as far apart as the originals do.

An autoencoder that is in doubt decodes what models have in common, so what it decodes is less diverse than what it was given. With
d the distance of two windows of the same places,

.. math:: \mathrm{loss} = \operatorname{mean}_{i < j} \max(0, 1 - d(x'_i, x'_j) / d(x_i, x_j))^2

after the variance term of VICReg (Bardes et al., 2105.04906), with each pair's own distance for the margin.
"""

from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsl.data.windows import Batch

FAINT = 1e-5
"""Distance below which two windows are the same."""


class Spread:
    """What is missing of the distances between windows of a batch after decoding."""

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Returns `loss`, and `spread`, the mean of the ratios (NaN where no two windows are of the same places)."""
        decoded = model(batch.values, batch.mask, batch.positions).float()
        pairs = [
            (i, j) for i, j in combinations(range(len(batch.values)), 2) if torch.equal(batch.positions[i], batch.positions[j])
        ]
        ratios = [
            _distance(decoded, batch, i, j) / original
            for i, j in pairs
            if (original := _distance(batch.values, batch, i, j)) > FAINT
        ]
        if not ratios:
            return {"loss": 0 * decoded.sum(), "spread": decoded.new_tensor(torch.nan)}
        ratio = torch.stack(ratios)
        return {"loss": functional.relu(1 - ratio).square().mean(), "spread": ratio.mean().detach()}


def _distance(values: Tensor, batch: Batch, i: int, j: int) -> Tensor:
    """Distance of two windows, where both have weights; never without a gradient."""
    squares = (values[i] - values[j]).square() * (batch.mask[i] & batch.mask[j])
    return (squares.sum() + 1e-12).sqrt()
