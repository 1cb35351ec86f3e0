"""Rounding: by how much weights may be off that were saved in some format, and what that makes of a whole checkpoint.

A weight is off by at most half a unit of the last place of its format. Arithmetic in float32 adds some units of its own last place.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from zoo_gen.finite import all_finite

ARITHMETIC = 16 * torch.finfo(torch.float32).eps
"""What arithmetic in float32 adds to each weight, in units of the root mean square of its tensor."""

Weights = Mapping[str, Tensor]


def within_precision(a: Weights, b: Weights) -> bool:
    """Says whether no weight differs by more than rounding to the formats of both checkpoints, and arithmetic, explain."""
    for name, x in a.items():
        y = b[name]
        limit = _arithmetic(x) + _arithmetic(y)
        if x.dtype != y.dtype:
            limit = limit + _rounding(x) + _rounding(y)
        if ((x.double() - y.double()).abs() > limit).any():
            return False
    return True


def off(weights: Weights, *, draw: int = 0) -> dict[str, Tensor]:
    """Returns a checkpoint in float64 with every weight off by what rounding and arithmetic may amount to.

    Equal weights of a tensor are off by the same, as they are rounded to the same. Each `draw` has other signs.
    """
    found = {}
    for name, tensor in weights.items():
        x = tensor.double()
        sign = torch.sin((1e9 + 7e8 * draw) * x).sign()
        found[name] = x + sign * (_rounding(tensor) + _arithmetic(tensor))
    return found


def in_float64(weights: Weights) -> dict[str, Tensor]:
    """Returns weights in double precision."""
    return {name: tensor.double() for name, tensor in weights.items()}


def apart(a: Weights, b: Weights) -> float:
    """Returns the Euclidean distance of two checkpoints as they are."""
    return sum(float((a[name].double() - b[name].double()).square().sum()) for name in a) ** 0.5


def norm(weights: Weights) -> float:
    """Returns the Euclidean norm of a checkpoint."""
    return sum(float(tensor.double().square().sum()) for tensor in weights.values()) ** 0.5


def is_finite(weights: Weights) -> bool:
    """Says whether all weights are finite numbers."""
    return all_finite(weights.values())


def _rounding(tensor: Tensor) -> Tensor:
    """Returns half a unit of the last place of each weight in the format of its tensor."""
    if not tensor.is_floating_point():
        return torch.zeros(tensor.shape, dtype=torch.float64)
    form = torch.finfo(tensor.dtype)
    exponent = torch.frexp(tensor.double().abs().clamp(min=form.tiny)).exponent - 1
    return torch.ldexp(torch.full(tensor.shape, form.eps / 2, dtype=torch.float64), exponent)


def _arithmetic(tensor: Tensor) -> Tensor:
    return ARITHMETIC * tensor.double().square().mean().sqrt()
