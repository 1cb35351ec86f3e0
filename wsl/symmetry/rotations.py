r"""Rotations of residual streams: where they are symmetries of the folded model, and which vectors they turn.

A norm that removes the mean commutes with the rotations that fix the vector of ones, an RMSNorm with all of them:

.. math:: \mathrm{norm}(Q x) = Q\, \mathrm{norm}(x)

once its scale and shift are folded into the layers that read it. All rotations are taken only where all norms of a stream are
known to be RMSNorms, which a model tells and a state dict does not.
"""

import functools
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from wsl.layout.slots import Axis, Layout, Rule, Slot


def rotatable(layout: Layout, stream: str) -> bool:
    """Says whether rotations of a stream (an axis) are symmetries of the folded model: all, or those that fix its mean.

    They are where every norm and scale of the stream folds away, and there is one.
    """
    found = _scalings(layout, stream)
    return bool(found) and all(rule.targets for rule in found)


def rotates_mean(layout: Layout, stream: str) -> bool:
    """Says whether the rotations of a stream need not fix its mean."""
    return {rule.form for rule in _scalings(layout, stream) if rule.verb == "norm"} == {"rms"}


def frame_of(layout: Layout, stream: str, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "n m"]:
    """Returns an orthonormal basis of the vectors that the rotations of a stream turn.

    These are all vectors of n features, or those of mean zero (m = n - 1, Helmert's basis).
    """
    n = dict(layout.sizes)[stream]
    if rotates_mean(layout, stream):
        return torch.eye(n, dtype=dtype, device=device)
    k = torch.arange(1, n, dtype=dtype, device=device)
    frame = torch.triu(torch.ones(n, n - 1, dtype=dtype, device=device)) - torch.diag(k, diagonal=-1)[:, :-1]
    return frame / (k * (k + 1)).sqrt()


def lift(turn: Float[Tensor, "*K m m"], frame: Float[Tensor, "n m"]) -> Float[Tensor, "*K n n"]:
    """Returns the rotations of all vectors that turn those of a frame and leave the others as they are."""
    n, m = frame.shape
    return turn if n == m else frame @ turn @ frame.T + 1 / n


@functools.lru_cache(maxsize=64)
def folded_layout(layout: Layout) -> Layout:
    """Returns the layout of folded models: scales of norms are ones there, which no rotation of the mean may turn."""
    streams = {
        axis.name for slot in layout.slots for part in slot.parts for dim in part.axes for axis in dim if axis.kind == "resid"
    }
    turned = {stream for stream in streams if rotatable(layout, stream) and rotates_mean(layout, stream)}
    ones = {name for stream in turned for rule in _scalings(layout, stream) for name in (rule.source, f"{rule.source}.weight")}

    def still(slot: Slot) -> Slot:
        dims = [tuple(tuple(Axis(f"folded.{axis.name}", False) for axis in dim) for dim in part.axes) for part in slot.parts]
        return replace(slot, parts=tuple(replace(part, axes=axes) for part, axes in zip(slot.parts, dims, strict=True)))

    return replace(layout, slots=tuple(still(slot) if slot.name in ones else slot for slot in layout.slots)) if ones else layout


def _scalings(layout: Layout, stream: str) -> list[Rule]:
    """Returns the rules of norms and scales of a stream."""
    parts = {slot.name: slot.parts for slot in layout.slots}

    def acts(rule: Rule) -> bool:
        own = parts.get(f"{rule.source}.weight", parts.get(rule.source, ()))
        dims = [dim for part in own for dim in part.axes]
        if not own:  # a norm without weights
            dims = [dim for layer in rule.targets for part in parts[f"{layer}.weight"] for dim in part.axes[1:]]
        return any(axis.name in (stream, f"folded.{stream}") for dim in dims for axis in dim)

    return [rule for rule in layout.rules if rule.verb in ("norm", "scale") and acts(rule)]
