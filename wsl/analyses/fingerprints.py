r"""Fingerprints of orbits: norms that no symmetry changes, and that are nearer to each other than the checkpoints are.

In standard form (`wsl.symmetry.canonical.standardize`), the remaining symmetries keep the norm of each part of each tensor.
"""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wsl.analyses.models import OPAQUE
from wsl.layout.slots import Layout
from wsl.symmetry.canonical import standardize
from wsl.symmetry.stacks import stack


def fingerprints(checkpoints: list[dict[str, Tensor]], layout: Layout) -> Float[np.ndarray, "K F"]:
    """Returns the norms of the parts of checkpoints in standard form."""
    standard = stack(checkpoints)
    if layout.family != OPAQUE:
        standard = standardize(standard, layout)
    return torch.stack([piece.reshape(len(piece), -1).norm(dim=1) for piece in layout.pieces(standard)], dim=1).numpy()


def ends(layout: Layout) -> Layout:
    """Returns the layout of the stem, the last block and the tail."""
    slots = tuple(slot for slot in layout.slots if {part.block for part in slot.parts} & {0, layout.depth, layout.depth + 1})
    names = {slot.name for slot in slots}

    def reads(layer: str) -> bool:
        return bool({layer, f"{layer}.weight", f"{layer}.bias"} & names)

    rules = tuple(rule for rule in layout.rules if reads(rule.source) and all(map(reads, rule.targets)))
    return replace(layout, slots=slots, rules=rules)
