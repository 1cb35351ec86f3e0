r"""Spectra: numbers of a checkpoint that no symmetry changes, and whose distance is at most that of the orbits.

Symmetries of standard forms are orthogonal, and singular values of two matrices differ by no more than the matrices do
(Mirsky 1960): :math:`\|\sigma(A) - \sigma(B)\| \le \|A - B\|_F`. So spectra tell, without an alignment, which checkpoints cannot be
near.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wsl.layout.slots import Layout
from wsl.symmetry.canonical import standardize
from wsl.symmetry.rotations import folded_layout


def spectra(weights: Mapping[str, Tensor], layout: Layout) -> Float[np.ndarray, "K F"]:
    """Returns the singular values of all parts of a stack (K, *shape) in standard form; NaN for one that is not finite."""
    finite = torch.stack([tensor.reshape(len(tensor), -1).isfinite().all(1) for tensor in weights.values()]).all(0)
    rows = [torch.zeros(0, 1, dtype=torch.float64)]
    if finite.any():
        standard = standardize({name: tensor[finite] for name, tensor in weights.items()}, layout)
        parts = folded_layout(layout).pieces(standard)
        rows = [torch.linalg.svdvals(part.reshape(len(part), part.shape[1] if part.dim() > 2 else 1, -1)) for part in parts]
    found = np.full((len(finite), sum(part.shape[1] for part in rows)), np.nan)
    found[finite.cpu().numpy()] = torch.cat(rows, dim=1).cpu().numpy()
    return found
