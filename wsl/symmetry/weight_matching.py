r"""Matching: the permutations and orthogonal maps that bring one stack of checkpoints as near to another as they can.

In standard form (`wsl.symmetry.canonical.standardize`) all symmetries left keep distances, so the nearest member of an orbit
maximises
:math:`\langle g a, b \rangle`. One axis at a time has a closed solution, given the others, from the products
:math:`G = \sum b\, a^T` of all entries along it: an assignment for permutations (Ainsworth et al., Git Re-Basin, 2209.04836),
the orthogonal polar factor for rotations (Procrustes), and for heads both, with the nuclear norms of every pair of heads
as scores. Alternating them climbs to a local optimum. It begins with the vectors of the residual stream that nothing else moves
(patch filters, position embeddings, biases, heads), where they bring the two nearer.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from wsl.layout.slots import Axis, Layout
from wsl.symmetry.canonical import anchored, gather, pairs
from wsl.symmetry.group import MAPPED, Maps, Matrix, axes_of, frame_of, transform
from wsl.symmetry.null_directions import rotatable

SWEEPS = 100
"""Most rounds over all axes; a handful is usual."""

GAIN = 1e-5
"""Sweeps end where the similarity of no checkpoint grows by more than this, relative to its norm."""

RIDGE = 1e-3
"""Weight of no rotation at all in the first step, over that of the vectors it matches."""


def match(a: Mapping[str, Tensor], b: Mapping[str, Tensor], layout: Layout, moves: Collection[str]) -> Maps:
    """Climbs from each checkpoint of a stack to that of another; where one ends does not depend on those beside it.

    Args:
        a: the stack (K, *shape) that moves.
        b: the stack (K, *shape) that it moves to.
        layout: of both.
        moves: which of `wsl.symmetry.group.MOVES`; null directions are ignored.

    Returns:
        The maps that were taken.
    """
    maps: Maps = {}
    streams = [name for name in axes_of(layout, ("resid",)) if {"resid", "rotation"} & set(moves)]
    neurons = list(axes_of(layout, {"mlp"} & set(moves)))
    heads = list(axes_of(layout, ("head",))) if {"head", *MAPPED} & set(moves) else []

    def take(steps: Maps) -> None:
        nonlocal a
        a = transform(a, steps, layout)
        for name, step in steps.items():
            maps[name] = compose(step, maps[name]) if name in maps else step

    before = _similarity(a, b)
    start: Maps = {}
    for name in streams:
        start |= _stream_step(a, b, layout, name, moves, anchored)
    better = _similarity(transform(a, start, layout), b) > before
    take({name: _where(better, step) for name, step in start.items()})
    best = _similarity(a, b)
    climbing = torch.arange(len(best), device=best.device)
    ended: list[tuple[Int[Tensor, " k"], Maps]] = []
    for sweep in range(SWEEPS):
        for name in heads:
            take(_head_step(a, b, layout, name, moves, maps))
        for name in neurons:
            take({name: _assign(_products(a, b, layout, name, lambda *_: True))})
        for name in streams:
            take(_stream_step(a, b, layout, name, moves, lambda *_: True))
        reached = _similarity(a, b)
        climbs = (reached - best > GAIN * _similarity(b, b)) & (sweep + 1 < SWEEPS)
        ended.append((climbing[~climbs], {name: _pick(step, ~climbs) for name, step in maps.items()}))
        if not climbs.any():
            break
        a, b = ({name: tensor[climbs] for name, tensor in w.items()} for w in (a, b))
        maps = {name: _pick(step, climbs) for name, step in maps.items()}
        climbing, best = climbing[climbs], reached[climbs]
    order = torch.cat([members for members, _ in ended]).argsort()
    return {name: _pick(_join([found[name] for _, found in ended]), order) for name in maps}


def _similarity(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Float[Tensor, "K"]:
    return torch.stack([(a[name] * b[name]).flatten(1).sum(1) for name in a]).sum(0)


def _products(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], layout: Layout, name: str, where: Callable[[Axis, list[Axis]], bool]
) -> Float[Tensor, "K n n"]:
    return gather(b, layout, name, where=where) @ gather(a, layout, name, where=where).mT


def _stream_step(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], layout: Layout, name: str, moves: Collection[str], where
) -> Maps:
    products = _products(a, b, layout, name, where)
    if "rotation" in moves and rotatable(layout, name):
        frame = frame_of(products.shape[-1], products.dtype, products.device)
        products = frame.T @ products @ frame
        if where is anchored:  # few vectors leave directions free: those stay as they are, whatever the round-off
            ridge = RIDGE * products.flatten(1).norm(dim=1)[:, None, None]
            products = products + ridge * torch.eye(products.shape[-1]).to(products)
        turn = frame @ _polar(products) @ frame.T + 1 / len(frame)
        return {name: Matrix(turn, turn)}
    return {name: _assign(products)} if "resid" in moves else {}


def _head_step(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], layout: Layout, head: str, moves: Collection[str], maps: Maps
) -> Maps:
    """Assigns heads and turns their features: each pair of heads scores what it reaches under its best maps."""
    scores = _products(a, b, layout, head, lambda _, others: not any(other.kind in MAPPED for other in others))
    turned: dict[str, Tensor] = {}
    for name in (name for name, owner in layout.heads.items() if owner == head):
        x, y = (torch.cat(pairs(w, layout, name), dim=-1) for w in (a, b))
        products = torch.einsum("k h i f, k g j f -> k h g i j", y, x)
        if name.partition(".")[0] in moves:
            scores = scores + torch.linalg.svdvals(products).sum(-1)
            turned[name] = products
        else:
            scores = scores + products.diagonal(dim1=-2, dim2=-1).sum(-1)
    size = scores.shape[-1]
    order = _assign(scores) if "head" in moves else torch.arange(size, device=scores.device).expand(len(scores), size)
    steps: Maps = {head: order} if "head" in moves else {}
    rows = torch.arange(len(scores), device=scores.device).unsqueeze(1)
    for name, products in turned.items():
        turn = _polar(products[rows, torch.arange(size, device=scores.device), order])
        steps[name] = Matrix(turn, turn)
        if name in maps:  # what was there belongs to the heads of the old order
            maps[name] = Matrix(*(pair[rows, order] for pair in maps[name]))
    return steps


def _where(chosen: Bool[Tensor, "K"], step: Int[Tensor, "K n"] | Matrix) -> Int[Tensor, "K n"] | Matrix:
    """Takes a step for the chosen checkpoints, and none for the others."""
    if isinstance(step, Matrix):
        matrix = torch.where(chosen[:, None, None], step.matrix, torch.eye(step.matrix.shape[-1]).to(step.matrix))
        return Matrix(matrix, matrix)
    return torch.where(chosen[:, None], step, torch.arange(step.shape[1], device=step.device))


def _pick(step: Int[Tensor, "K n"] | Matrix, rows: Tensor) -> Int[Tensor, "k n"] | Matrix:
    """Takes the steps of some checkpoints, by a mask or indices."""
    return Matrix(*(x[rows] for x in step)) if isinstance(step, Matrix) else step[rows]


def _join(steps: Sequence[Int[Tensor, "k n"] | Matrix]) -> Int[Tensor, "K n"] | Matrix:
    """Puts the steps of several stacks one after the other."""
    if isinstance(steps[0], Matrix):
        return Matrix(*(torch.cat([x for x in pair if isinstance(x, Tensor)]) for pair in zip(*steps, strict=True)))
    return torch.cat([step for step in steps if isinstance(step, Tensor)])


def compose(step: Int[Tensor, "K n"] | Matrix, last: Int[Tensor, "K n"] | Matrix) -> Int[Tensor, "K n"] | Matrix:
    """Returns the map of an axis that takes one step after the last ones, of the same kind."""
    if isinstance(step, Matrix) and isinstance(last, Matrix):
        return Matrix(step.matrix @ last.matrix, step.dual @ last.dual)
    assert isinstance(step, Tensor)
    assert isinstance(last, Tensor)
    return last.gather(1, step)


def _assign(scores: Float[Tensor, "K n n"]) -> Int[Tensor, "K n"]:
    """Returns, for each row, the column of the assignment of largest total score."""
    columns = [linear_sum_assignment(one, maximize=True)[1] for one in scores.detach().cpu().numpy()]
    return torch.from_numpy(np.stack(columns)).to(scores.device)


def _polar(products: Float[Tensor, "*K n n"]) -> Float[Tensor, "*K n n"]:
    """Returns the orthogonal matrix nearest to each product."""
    u, _, vh = torch.linalg.svd(products)
    return u @ vh
