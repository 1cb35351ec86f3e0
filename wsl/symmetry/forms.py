r"""Forms: checkpoints in canonical form, ready to be compared with many others.

Alignment of a stack to one checkpoint (`vectors`) costs most of a comparison, so **spectra** come first: singular values of all
parts, which no symmetry changes. Symmetries of standard forms are orthogonal, and singular values of two matrices differ by no more
than the matrices do (Mirsky 1960): :math:`\|\sigma(A) - \sigma(B)\| \le \|A - B\|_F`. So spectra tell, without an alignment,
which checkpoints cannot be near.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wsl.layout.slots import Layout
from wsl.symmetry.canonical import choose, standardize
from wsl.symmetry.group import MAPPED, PERMUTED, transform
from wsl.symmetry.rotations import folded_layout
from wsl.symmetry.stacks import check_stack
from wsl.symmetry.weight_matching import SWEEPS, match

COMPACT = (*PERMUTED, *MAPPED, "rotation")
"""Moves between standard forms, which keep distances."""


@dataclass(frozen=True)
class Forms:
    """N checkpoints of one shape, of which the finite ones have forms.

    Attributes:
        layout: of the checkpoints.
        finite: which of them are.
        standard, canonical: the forms of those (`wsl.symmetry.canonical`), in float64.
    """

    layout: Layout
    finite: Bool[np.ndarray, " N"]
    standard: Mapping[str, Tensor]
    canonical: Mapping[str, Tensor]

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], layout: Layout) -> Self:
        """Finds the forms of a stack (N, *shape). Raises `InputError` for a stack of another layout."""
        check_stack(weights, layout)
        finite = torch.stack([tensor.reshape(len(tensor), -1).isfinite().all(1) for tensor in weights.values()]).all(0)
        there = {name: tensor[finite].double() for name, tensor in weights.items()}
        standard = standardize(there, layout) if finite.any() else there
        return cls(layout, finite.cpu().numpy(), standard, choose(standard, layout)[0] if finite.any() else there)

    def __len__(self) -> int:
        return len(self.finite)

    def __getitem__(self, chosen: Int[np.ndarray, " M"]) -> Self:
        places = torch.from_numpy((np.cumsum(self.finite) - 1)[chosen[self.finite[chosen]]])
        standard, canonical = ({name: x[places] for name, x in form.items()} for form in (self.standard, self.canonical))
        return type(self)(self.layout, self.finite[chosen], standard, canonical)

    @cached_property
    def spectra(self) -> Float[np.ndarray, "N U"]:
        """Singular values of all parts; NaN of checkpoints that are not finite."""
        parts = folded_layout(self.layout).pieces(self.standard)
        matrices = [part.flatten(2) if part.dim() > 2 else part.reshape(len(part), 1, *part.shape[1:] or (1,)) for part in parts]
        return self._spread(torch.cat([torch.linalg.svdvals(matrix) for matrix in matrices], dim=1))

    def vectors(self, to: Self, *, sweeps: int = SWEEPS) -> Float[np.ndarray, "N F"]:
        """Returns all weights as rows, aligned to the one checkpoint of `to`.

        The Euclidean distance of two rows is 0 for copies by the symmetries of the table, and otherwise no less than the distance
        of their orbits: all-pairs distances for the price of N alignments. Rows of checkpoints that are not finite are NaN.

        Args:
            to: one finite checkpoint.
            sweeps: see `wsl.symmetry.weight_matching.match`; with few of them distances are too large.
        """
        if not self.finite.any():
            return np.full((len(self), sum(math.prod(slot.shape) for slot in self.layout.slots)), np.nan)
        layout = folded_layout(self.layout)
        aligned = transform(self.canonical, match(self.canonical, to.canonical, layout, COMPACT, sweeps=sweeps), layout)
        return self._spread(torch.cat([aligned[s.name].reshape(len(aligned[s.name]), -1) for s in layout.slots], dim=1))

    def _spread(self, rows: Float[Tensor, "M F"]) -> Float[np.ndarray, "N F"]:
        """Puts rows of finite checkpoints in their places."""
        found = np.full((len(self), rows.shape[1]), np.nan)
        found[self.finite] = rows.cpu().numpy()
        return found
