"""Alignment of one checkpoint to another: other weights of the same function, as near to those of the other as symmetries allow."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from wsl.analyses.comparison import alike
from wsl.analyses.copies import TOLERANCE
from wsl.analyses.models import OPAQUE, Model
from wsl.analyses.rounding import apart, in_float64, is_finite, norm, off
from wsl.symmetry.alignment import align, distance
from wsl.symmetry.stacks import stack, unstack
from zoo_gen.errors import InputError


@dataclass(frozen=True)
class Aligned:
    """A checkpoint aligned to another, by the names and number formats that it came with.

    `before` and `after` are the distances of the weights as they are, over the geometric mean of their norms. Heads of other shapes
    do not count.
    """

    weights: dict[str, Tensor]
    before: float
    after: float


def align_models(a: Model, b: Model, moves: Collection[str], *, dtype: torch.dtype | None) -> Aligned:
    """Aligns the first model to the second one.

    Args:
        a: the model that moves. A head of another shape than that of the second moves along.
        b: the model that it moves to.
        moves: which of `wsl.symmetry.group.MOVES`.
        dtype: of the aligned weights; None: as they came.

    Raises:
        InputError: no table knows the model, the two are of different architectures, weights are not finite, or the aligned weights
            are not the same function in the number format: scales of zero hide weights, and half precision may be too coarse.
    """
    for model in (a, b):
        if model.layout.family == OPAQUE:
            raise InputError(f"{model.name} cannot be aligned: {model.notes[0]}")
        if not is_finite(model.weights):
            raise InputError(f"{model.name} has weights that are not finite; there is nothing to align")
    to, weights, layout, _ = alike(b, a)
    found = unstack(align(stack([in_float64(weights)]), layout, to=stack([in_float64(to)]), moves=moves).weights)[0]
    written = {name: found[name].to(dtype or tensor.dtype) for name, tensor in weights.items()}
    own, new = in_float64(weights), in_float64(written)
    pairs = stack([new, off(weights), off(written)]), stack([own, own, new])
    between, by_own, by_new = distance(pairs[0], pairs[1], layout).tolist()
    if between > TOLERANCE * (by_own + by_new):
        raise InputError(
            f"{a.name}, once aligned, would be another function: a scale of zero hides weights, or half precision is too coarse; "
            "leave norms and biases alone (moves=[resid,mlp,head,qk,vo]), or write dtype=float32"
        )
    shared = {
        name for name in weights if name not in a.head or (a.weights[name].shape == b.weights.get(name, torch.empty(0)).shape)
    }
    parts = [{name: each[name] for name in shared} for each in (weights, written, b.weights)]
    before, after = (apart(one, parts[2]) / (norm(one) * norm(parts[2])) ** 0.5 for one in parts[:2])
    return Aligned(written, before, after)
