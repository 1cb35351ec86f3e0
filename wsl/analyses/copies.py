r"""Copies: whether two checkpoints are one function, to the bit, up to precision, or up to the symmetries of their layout.

Numbers of a file are rounded, so copies differ by what rounding makes of them. A weight in a format of fewer bits is off by at most
half a unit of its last place, and arithmetic in float32 adds some units of its own last place:

- up to precision: no weight differs by more than that; two files of one format must agree but for the arithmetic;
- up to symmetry: aligned in standard form (`wsl.symmetry.alignment`), no part of a tensor differs by much more than rounding makes
  of it, nor do all parts together. What rounding makes of a part p is measured: :math:`r_p` is the distance of a checkpoint to
  itself with every weight of the file off by half a unit, up or down. So the gauge of a file says what its rounding amounts to.

Errors of rounding are uniform, so their mean square is a third of that of half a unit. With :math:`d_p` the distance of a part of
:math:`n_p` numbers, :math:`q^2 = \sum_p n_p (d_p / r_p)^2 / \sum_p n_p` is about 1/3 for copies. A gauge makes rounding large in
some parts, as in biases that shifts of norms moved. Siblings differ in all parts, and the others tell.

Trainings of one root that hardly moved are as near in one gauge as copies are. Where rounding explains the plain difference of two
checkpoints, they are equal only up to precision, or not at all.
"""

from dataclasses import dataclass

import torch

from wsl.analyses.models import OPAQUE
from wsl.analyses.rounding import Weights, apart, in_float64, off, within_precision
from wsl.layout.slots import Layout
from wsl.symmetry.alignment import distances_by_part
from wsl.symmetry.stacks import stack
from zoo_gen.files import weights_sha256

KINDS = ("bits", "precision", "symmetry")
"""What two checkpoints may be equal up to, the strictest first."""

TOLERANCE = 2
"""Largest distance that rounding explains, in units of the distance of weights that are off by all that it may amount to."""

PART, WHOLE = 4, 0.75
"""Largest distance of copies in any part of a tensor, and largest q, in units of what rounding makes of the part."""

DRAWS = 8
"""How often rounding is drawn, at most: errors of two tensors that meet in a part may cancel in a draw."""

FLOOR = 1e-6
"""Rounding of a part, at least, over that of all parts: parts that are folded away differ by the round-off of float64."""


@dataclass(frozen=True)
class Relation:
    """What two checkpoints are equal up to (of `KINDS`; None: nothing), and how far apart they are modulo symmetry.

    The distance is q of the module, in units of rounding; None where it was not needed.
    """

    kind: str | None
    distance: float | None = None


def relation(a: Weights, b: Weights, layout: Layout) -> Relation:
    """Finds what two checkpoints with the tensors of a layout are equal up to. Both must be finite."""
    if weights_sha256(a) == weights_sha256(b):
        return Relation("bits")
    if within_precision(a, b):
        return Relation("precision")
    if layout.family == OPAQUE:
        return Relation(None)
    one, other = in_float64(a), in_float64(b)
    if apart(one, other) <= TOLERANCE * (apart(one, off(a)) + apart(other, off(b))):
        return Relation(None)
    sizes = torch.tensor([piece.numel() for piece in layout.pieces(stack([one]))])
    between, rounding, whole = distances_by_part(stack([one]), stack([other]), layout)[0], torch.zeros(len(sizes)), 0.0
    for draw in range(DRAWS):
        pairs = stack([off(a, draw=draw), off(b, draw=draw)]), stack([one, other])
        drawn = torch.hypot(*distances_by_part(*pairs, layout))
        rounding = rounding.maximum(drawn)
        ratio = between / rounding.clamp(min=FLOOR * float(rounding.norm()))
        counted = torch.where(rounding > 0, sizes, 0)
        whole = float((counted * ratio.square()).sum() / counted.sum()) ** 0.5
        if whole <= WHOLE and float(ratio.max()) <= PART:
            return Relation("symmetry", whole)
        if whole > 2 * WHOLE:
            break
    return Relation(None, whole)
