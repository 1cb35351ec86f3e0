"""Scales of tensors: powers of two near the root mean squares of what is coded."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def limit(dtype: torch.dtype) -> int:
    """Returns the largest e for which 2^e and 2^-e are normal numbers of a type."""
    return -round(math.log2(torch.finfo(dtype).tiny))


def squares(coded: Float[Tensor, " n"]) -> tuple[float, int]:
    """Returns the sum of squares of the finite entries, and their number."""
    wide = coded.double()
    if not math.isfinite(total := torch.dot(wide, wide).item()):
        wide = wide[wide.isfinite()]
        total = torch.dot(wide, wide).item()
    return total, len(wide)


def exponent(total: float, count: int, dtype: torch.dtype) -> int:
    """Returns the binary logarithm of a root mean square, within the limit of a type; 0 if that is 0."""
    most = limit(dtype)
    return round(max(-most, min(most, math.log2(total / count) / 2))) if total > 0 else 0
