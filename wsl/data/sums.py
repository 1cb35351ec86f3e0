"""Sums over the parts of a checkpoint, from which statistics and log-scales follow without another pass over its weights."""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Sums = Float[Tensor, "parts 2"]
"""Sum and sum of squares of each part of a checkpoint, in double precision; the plan has the counts."""


def sums_of(parts: Iterable[Iterable[Tensor]]) -> Sums:
    """Sums of a checkpoint from the flat pieces of its parts (`wsl.tokenizers.window`).

    NumPy adds contiguous numbers up in an order that depends on their count alone, so the bits do not depend on where the values
    lie, nor on threads (as those of PyTorch's sums do).
    """
    rows = []
    with np.errstate(over="ignore", invalid="ignore"):
        for pieces in parts:
            row = np.zeros(2)
            for piece in pieces:
                values = piece.double().numpy()
                row += values.sum(), np.square(values).sum()
            rows.append(row)
    return torch.from_numpy(np.stack(rows))
