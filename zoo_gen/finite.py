"""Whether all of many numbers are finite."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

_WITH_EXTREMES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Says whether all numbers of some tensors are finite."""
    return all(map(_finite, tensors))


def _finite(tensor: Tensor) -> bool:
    """Looks at the extremes, NaN where there is one: one pass without a copy, several times as fast as `isfinite().all()`."""
    if tensor.dtype not in _WITH_EXTREMES or not tensor.numel():
        return bool(tensor.isfinite().all())
    return all(math.isfinite(extreme.item()) for extreme in tensor.detach().aminmax())
