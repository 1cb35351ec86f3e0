r"""Alignment: the member of a checkpoint's orbit that is nearest to another checkpoint, and distances modulo symmetry.

The orbit is that of the symmetries that the table of the architecture has (`wsl.layout.architectures`), not of all there are.
Weight matching (`wsl.symmetry.weight_matching`) compares checkpoints in canonical form (`wsl.symmetry.canonical`), so that all
copies of a checkpoint by these reach the same optimum. With some of the moves alone it starts from the weights as they are and,
again, from permutations that the other moves do not disturb. A loss can refine it: `wsl.symmetry.learned_alignment`.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wsl.layout.slots import Layout
from wsl.symmetry.canonical import balance, canonicalize, choose
from wsl.symmetry.forms import COMPACT, Forms
from wsl.symmetry.group import Maps, Matrix, check_moves, inverse, transform
from wsl.symmetry.learned_alignment import Loss, descend
from wsl.symmetry.null_directions import NULLS, fold, unfold
from wsl.symmetry.profiles import match_twice
from wsl.symmetry.rotations import folded_layout
from wsl.symmetry.stacks import check_stack
from wsl.symmetry.weight_matching import match
from zoo_gen.errors import InputError
from zoo_gen.wording import counted


@dataclass(frozen=True)
class Alignment:
    """A stack of K checkpoints aligned to another, and their distances to it.

    Distances are between weights, or between standard forms where null directions are among the moves.
    """

    weights: dict[str, Tensor]
    distance: Float[Tensor, "K"]


def align(weights: Mapping[str, Tensor], layout: Layout, *, to: Mapping[str, Tensor], moves: Collection[str]) -> Alignment:
    """Aligns a stack (K, *shape) by weight matching.

    Args:
        weights: the stack that moves.
        layout: of both stacks, with the number of heads.
        to: a stack of K checkpoints, or of one that serves all.
        moves: which of `wsl.symmetry.group.MOVES`. With all `NULLS` among them both stacks are compared in standard form, and the
            result takes the null directions and head maps of `to`. Otherwise weights are compared as they are.

    Returns:
        The aligned stack in float64, of the function of `weights`.
    """
    return _align(weights, layout, to, moves, lambda a, b, layout, moves, find: find(a, b, layout, moves))


def align_by_loss(
    weights: Mapping[str, Tensor],
    layout: Layout,
    *,
    to: Mapping[str, Tensor],
    moves: Collection[str],
    loss: Loss,
    steps: int,
    rate: float,
) -> Alignment:
    """Aligns a stack (K, *shape) by weight matching and, from there, by the loss half way to the other stack.

    Args:
        weights, layout, to: see `align`.
        moves: see `align`; orthogonal maps of heads and rotations follow the loss, permutations the weights alone.
        loss, steps, rate: see `wsl.symmetry.learned_alignment.descend`.
    """

    def climb(a: dict[str, Tensor], b: dict[str, Tensor], layout: Layout, moves: Collection[str], find: Match) -> Maps:
        maps = find(a, b, layout, moves)
        learned = descend(transform(a, maps, layout), b, layout, moves=moves, loss=loss, steps=steps, rate=rate)
        for name, turn in learned.items():
            maps[name] = Matrix(*(step @ last for step, last in zip(turn, maps[name], strict=True)))
        return maps

    return _align(weights, layout, to, moves, climb)


def distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor], layout: Layout) -> Float[Tensor, "K"]:
    """Distance modulo symmetry between the checkpoints of two stacks (K, *shape), one by one; `b` may hold one for all.

    The distance is that of the standard forms after alignment: 0 between copies by any of the symmetries of the table. It is an
    upper bound of the distance of the orbits, as alignment finds a local optimum.
    """
    return _distance(*_compared(a, b, layout))


def distances_by_part(a: Mapping[str, Tensor], b: Mapping[str, Tensor], layout: Layout) -> Float[Tensor, "K P"]:
    """Distances as of `distance`, of each part of each tensor by itself (`wsl.layout.slots.Layout.pieces`)."""
    ours, theirs = _compared(a, b, layout)
    apart = layout.pieces({name: ours[name] - theirs[name] for name in ours})
    return torch.stack([piece.reshape(len(piece), -1).norm(dim=1) for piece in apart], dim=1)


def aligned_vectors(weights: Mapping[str, Tensor], layout: Layout, *, to: Mapping[str, Tensor]) -> Float[np.ndarray, "N F"]:
    """Returns a stack (N, *shape) in standard form, aligned to one checkpoint (1, *shape), as rows: see `Forms.vectors`."""
    return Forms.of(weights, layout).vectors(Forms.of(to, layout))


Match = Callable[[Mapping[str, Tensor], Mapping[str, Tensor], Layout, Collection[str]], Maps]
Climb = Callable[[dict[str, Tensor], dict[str, Tensor], Layout, Collection[str], Match], Maps]


def _align(
    weights: Mapping[str, Tensor], layout: Layout, to: Mapping[str, Tensor], moves: Collection[str], climb: Climb
) -> Alignment:
    check_moves(moves)
    for stacked in (weights, to):
        check_stack(stacked, layout)
    a, b = ({name: tensor.detach().double() for name, tensor in w.items()} for w in (weights, to))
    if not set(NULLS) <= set(moves):
        b = _expand(b, a)
        aligned = transform(a, climb(a, b, layout, set(moves) - {*NULLS, "rotation"}, match_twice), layout)
        return Alignment(aligned, _distance(aligned, b))
    folded, gauge = fold(b, layout)
    balanced = balance(folded, layout)
    compact = transform(folded, balanced, layout)
    lost = _minus(folded, transform(compact, inverse(balanced), layout))
    b, steps = choose(compact, layout)
    a = canonicalize(a, layout)
    b, layout_of_folded = _expand(b, a), folded_layout(layout)
    aligned = transform(a, climb(a, b, layout_of_folded, set(moves) - set(NULLS), match), layout_of_folded)
    found = _distance(aligned, b)
    for step in reversed([balanced, *steps]):
        aligned = transform(aligned, inverse(step), layout_of_folded)
    aligned = {name: tensor + lost[name] for name, tensor in aligned.items()}
    gauge = {name: tensor.expand(len(found), *tensor.shape[1:]) for name, tensor in gauge.items()}
    return Alignment(unfold(aligned, gauge, layout), found)


def _minus(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Subtracts, but for round-off: what the balance of heads hides, as no output reads it."""
    found = {}
    for name in a:
        rest, whole = (x.reshape(len(x), -1) for x in (a[name] - b[name], a[name]))
        small = rest.norm(dim=1, keepdim=True) < 1e-9 * whole.norm(dim=1, keepdim=True)
        found[name] = torch.where(small, 0, rest).view_as(a[name])
    return found


def _compared(a: Mapping[str, Tensor], b: Mapping[str, Tensor], layout: Layout) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns two stacks in canonical form, the first aligned to the second."""
    a, b = canonicalize(a, layout), _expand(canonicalize(b, layout), a)
    layout = folded_layout(layout)
    return transform(a, match(a, b, layout, COMPACT), layout), b


def _expand(one: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Repeats a stack of one checkpoint for each of another stack, as views. Raises `InputError` for a stack of another size."""
    size, other = (len(next(iter(stacked.values()))) for stacked in (like, one))
    if other not in (1, size):
        raise InputError(f"{counted(size, 'checkpoint')} cannot be compared to {other}; pass a stack of {size}, or of one for all")
    return {name: tensor.expand(size, *tensor.shape[1:]) for name, tensor in one.items()}


def _distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Float[Tensor, "K"]:
    return torch.stack([(a[name] - b[name]).square().reshape(len(a[name]), -1).sum(1) for name in a]).sum(0).sqrt()
