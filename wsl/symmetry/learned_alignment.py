r"""Descent: orthogonal maps that bring two stacks of checkpoints together in function, by gradient.

Each rotation of a residual stream and each orthogonal map of a head is :math:`\exp(S - S^T)`; Adam moves the :math:`S` from zero
so that the loss half way between the two checkpoints falls (Peña et al., 2212.13232, for permutations; Theus et al., 2506.22712).
Permutations stay as they are. The maps of the lowest loss on the path count, so a copy stays in place.
"""

from collections.abc import Callable, Collection, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from wsl.layout.slots import Layout
from wsl.symmetry.group import MAPPED, Maps, Matrix, axes_of, transform
from wsl.symmetry.rotations import frame_of, lift, rotatable

Loss = Callable[[dict[str, Tensor]], Float[Tensor, "K"]]
"""The loss of each checkpoint of a stack (K, *shape), differentiable."""


def descend(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], layout: Layout, *, moves: Collection[str], loss: Loss, steps: int, rate: float
) -> Maps:
    """Learns the maps of stack `a` after which the loss half way to stack `b` is lowest.

    Args:
        a: the stack (K, *shape) that moves.
        b: the stack (K, *shape) that it is to meet, matched with it.
        layout: of both; folded ones, where `moves` has rotations.
        moves: which of `qk`, `vo` and `rotation` are learned; others are ignored.
        loss: of a stack.
        steps: of gradient descent.
        rate: learning rate, about the angle (in radians) that one step turns.
    """
    like = next(iter(a.values()))
    sizes = dict(layout.sizes)
    mapped = axes_of(layout, set(moves) & set(MAPPED))
    shapes = {name: (sizes[layout.owners[name]], n, n) for name, n in mapped.items() if n > 1}  # no path leads from 1 to -1
    streams = [name for name in axes_of(layout, ("resid",)) if "rotation" in moves and rotatable(layout, name)]
    frames = {name: frame_of(layout, name, like.dtype, like.device) for name in streams}
    shapes |= {name: (frame.shape[1], frame.shape[1]) for name, frame in frames.items()}
    if not shapes:
        return {}
    skew = {name: like.new_zeros(len(like), *shape).requires_grad_() for name, shape in shapes.items()}

    def maps_of(skew: Mapping[str, Tensor]) -> Maps:
        turns = {name: torch.linalg.matrix_exp(s - s.mT) for name, s in skew.items()}
        turns |= {name: lift(turns[name], frame) for name, frame in frames.items()}
        return {name: Matrix(turn, turn) for name, turn in turns.items()}

    optimizer = torch.optim.Adam(skew.values(), lr=rate)
    lowest = like.new_full((len(like),), float("inf"))
    kept = {name: s.detach().clone() for name, s in skew.items()}
    for step in range(steps + 1):
        moved = transform(a, maps_of(skew), layout)
        losses = loss({name: torch.lerp(moved[name], b[name], 0.5) for name in moved})
        better = losses.detach() < lowest
        lowest = torch.where(better, losses.detach().to(lowest), lowest)
        for name, s in skew.items():
            kept[name] = torch.where(better.view(-1, *[1] * (s.ndim - 1)), s.detach(), kept[name])
        if step < steps:
            optimizer.zero_grad()
            losses.sum().backward()
            optimizer.step()
    return maps_of(kept)
