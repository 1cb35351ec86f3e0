r"""Copies: whether two checkpoints are one function, to the bit, up to precision, or up to the symmetries of their layout.

Numbers of a file are rounded, so copies differ by what rounding makes of them. A weight x in a format of precision
:math:`\epsilon` is off by at most :math:`\epsilon |x| / 2`, and arithmetic in float32 adds some units of its last place:

- up to precision: no weight differs by more than that; two files of one format must agree but for the arithmetic;
- up to symmetry: the distance of the orbits (`wsl.symmetry.alignment.distance`) is at most `TOLERANCE` times that of each
  checkpoint to itself with every weight off by as much. So the gauge of each checkpoint says what its rounding amounts to.

Trainings of one root that hardly moved are as near in one gauge as copies are. Where rounding explains the plain difference of two
checkpoints, they are equal only up to precision, or not at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from wsl.analyses.models import OPAQUE
from wsl.layout.slots import Layout
from wsl.symmetry.alignment import distance
from wsl.symmetry.stacks import stack
from zoo_gen.files import weights_sha256

KINDS = ("bits", "precision", "symmetry")
"""What two checkpoints may be equal up to, the strictest first."""

TOLERANCE = 2
"""Largest distance of copies, in units of the distance that rounding makes."""

ARITHMETIC = 16 * torch.finfo(torch.float32).eps
"""What arithmetic in float32 adds to each weight, in units of the root mean square of its tensor."""

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Relation:
    """What two checkpoints are equal up to (of `KINDS`; None: nothing), their distance modulo symmetry and what copies may have.

    The distances are None where they were not needed.
    """

    kind: str | None
    distance: float | None = None
    tolerance: float | None = None


def relation(a: Weights, b: Weights, layout: Layout) -> Relation:
    """Finds what two checkpoints with the tensors of a layout are equal up to. Both must be finite."""
    if weights_sha256(a) == weights_sha256(b):
        return Relation("bits")
    if within_precision(a, b):
        return Relation("precision")
    if layout.family == OPAQUE:
        return Relation(None)
    one, other, one_off, other_off = in_float64(a), in_float64(b), off(a), off(b)
    if apart(one, other) <= TOLERANCE * (apart(one, one_off) + apart(other, other_off)):
        return Relation(None)
    between, own, others = distance(stack([one, one_off, other_off]), stack([other, one, other]), layout).tolist()
    tolerance = TOLERANCE * (own + others)
    return Relation("symmetry" if between <= tolerance else None, between, tolerance)


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
    return all(bool(tensor.isfinite().all()) for tensor in weights.values())


def _rounding(tensor: Tensor) -> Tensor:
    """Returns half a unit of the last place of each weight, at most, in the format of its tensor."""
    if not tensor.is_floating_point():
        return torch.zeros(tensor.shape, dtype=torch.float64)
    form = torch.finfo(tensor.dtype)
    return form.eps / 2 * tensor.double().abs() + form.tiny * form.eps / 2


def _arithmetic(tensor: Tensor) -> Tensor:
    return ARITHMETIC * tensor.double().square().mean().sqrt()
