r"""Alignment: the member of a checkpoint's orbit that is nearest to another checkpoint, and distances modulo symmetry.

In standard form (`wsl.canonical.standardize`) all symmetries left keep distances, so the nearest member maximises
:math:`\langle g a, b \rangle`. One axis at a time has a closed solution, given the others, from the products
:math:`G = \sum b\, a^T` of all entries along it: an assignment for permutations (Ainsworth et al., Git Re-Basin, 2209.04836),
the orthogonal polar factor for rotations (Procrustes), and for heads both, with the nuclear norms of every pair of heads
as scores. Alternating them climbs to a local optimum. It begins from canonical forms, so that copies in whatever disguise
end in the same place, and with the vectors of the residual stream that nothing else moves (patch filters, position
embeddings, biases, heads), where they bring the two nearer.

Activations can stand in for weights: the outputs of each linear layer on given inputs carry the axes of its rows.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.func import functional_call

from wsl.canonical import anchored, balance, canonicalize, choose, gather, pairs
from wsl.fold import NULLS, fold, rotatable, unfold, unstack
from wsl.layout import Axis, Layout
from wsl.symmetry import MAPPED, PERMUTED, Maps, Matrix, axes_of, frame_of, heads_of, inverse, transform

SWEEPS = 100
"""Most rounds over all axes; a handful is usual."""

GAIN = 1e-7
"""Sweeps end where the similarity of no checkpoint grows by more than this, relative to its norm."""

RIDGE = 1e-3
"""Weight of no rotation at all in the first step, over that of the vectors it matches."""


@dataclass(frozen=True)
class Alignment:
    """A stack of K checkpoints as like another as symmetries allow, and their distances to it.

    Distances are of the weights as they are, or of standard forms where null directions are among the moves.
    """

    weights: dict[str, Tensor]
    distance: Float[Tensor, "K"]


def align(weights: Mapping[str, Tensor], layout: Layout, *, to: Mapping[str, Tensor], moves: Collection[str]) -> Alignment:
    """Aligns a stack (K, *shape) by weight matching.

    Args:
        weights: the stack that moves.
        layout: of both stacks, with the number of heads.
        to: a stack of K checkpoints, or of one that serves all.
        moves: which of `wsl.symmetry.MOVES`. With all `NULLS` among them both are compared in standard form, and the result
            takes the null directions and head maps of `to`; without, weights are compared as they are.

    Returns:
        The aligned stack in float64, of the function of `weights`.
    """
    return _align(weights, layout, to, moves, lambda a, b: (a, b, layout))


def align_by_activations(
    weights: Mapping[str, Tensor],
    layout: Layout,
    *,
    to: Mapping[str, Tensor],
    moves: Collection[str],
    model: nn.Module,
    inputs: Tensor,
) -> Alignment:
    """Aligns a stack (K, *shape) by what its linear layers put out for given inputs; see `align`.

    Args:
        weights: see `align`.
        layout: see `align`.
        to: see `align`.
        moves: see `align`.
        model: runs the checkpoints; its own weights do not matter.
        inputs: a batch of what the model takes.
    """

    def evidence(a: dict[str, Tensor], b: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], Layout]:
        outputs = [activations(w, layout, model, inputs) for w in (a, b)]
        return outputs[0], outputs[1], _output_layout(layout, outputs[0])

    return _align(weights, layout, to, moves, evidence)


def distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor], layout: Layout) -> Float[Tensor, "K"]:
    """Distance modulo symmetry between the checkpoints of two stacks (K, *shape), one by one; `b` may hold one for all.

    It is the Euclidean distance of the standard forms after alignment, 0 between copies, whatever symmetry is between
    them: an upper bound of the distance of the orbits, as alignment finds a local optimum.
    """
    a, b = canonicalize(a, layout), _expand(canonicalize(b, layout), a)
    return _distance(transform(a, _match(a, b, layout, layout, _COMPACT), layout), b)


def aligned_vectors(weights: Mapping[str, Tensor], layout: Layout, *, to: Mapping[str, Tensor]) -> Float[np.ndarray, "N F"]:
    """Returns a stack (N, *shape) in standard form, aligned to one checkpoint (1, *shape), as rows.

    The Euclidean distance of two rows is 0 for copies, however disguised, and otherwise no less than the distance of
    their orbits: all-pairs distances for the price of N alignments. Rows of checkpoints that are not finite are NaN.
    """
    finite = torch.stack([tensor.flatten(1).isfinite().all(1) for tensor in weights.values()]).all(0)
    rows = np.full((len(finite), sum(math.prod(slot.shape) for slot in layout.slots)), np.nan)
    if finite.any():
        a = canonicalize({name: tensor[finite] for name, tensor in weights.items()}, layout)
        aligned = transform(a, _match(a, _expand(canonicalize(to, layout), a), layout, layout, _COMPACT), layout)
        rows[finite.cpu().numpy()] = torch.cat([aligned[slot.name].flatten(1) for slot in layout.slots], dim=1).cpu().numpy()
    return rows


def centre_of(weights: Mapping[str, Tensor], layout: Layout, *, rounds: int) -> dict[str, Tensor]:
    """Returns a common centre (1, *shape) of a stack: the mean of its standard forms, each aligned to the last centre.

    The first centre is the first checkpoint. It is a reference to align to, and in general no model that works.
    """
    a = canonicalize(weights, layout)
    centre = {name: tensor[:1] for name, tensor in a.items()}
    for _ in range(rounds):
        aligned = transform(a, _match(a, _expand(centre, a), layout, layout, _COMPACT), layout)
        centre = {name: tensor.mean(0, keepdim=True) for name, tensor in aligned.items()}
    return centre


def activations(
    weights: Mapping[str, Tensor], layout: Layout, model: nn.Module, inputs: Tensor
) -> dict[str, Float[Tensor, "K out samples"]]:
    """Runs a stack (K, *shape) and returns what each layer with a slot `<name>.weight` puts out, by `<name>.weight`."""
    layers = {slot.name.removesuffix(".weight") for slot in layout.slots if len(slot.shape) > 1}
    out: dict[str, list[Tensor]] = {}

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: object, output: Tensor) -> None:
            rows = output.flatten(2).mT if isinstance(module, nn.Conv2d) else output
            out.setdefault(f"{name}.weight", []).append(rows.flatten(0, -2).mT)

        return hook

    modules = {name: module for name, module in model.named_modules() if name in layers and not isinstance(module, nn.Embedding)}
    hooks = [module.register_forward_hook(record(name)) for name, module in modules.items()]
    try:
        with torch.no_grad():
            for one in unstack(weights):
                functional_call(model, one, (inputs.to(one[layout.slots[0].name].dtype) if inputs.is_floating_point() else inputs,))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.stack(rows) for name, rows in out.items()}


_COMPACT = (*PERMUTED, *MAPPED, "rotation")
Evidence = Callable[[dict[str, Tensor], dict[str, Tensor]], tuple[Mapping[str, Tensor], Mapping[str, Tensor], Layout]]


def _align(
    weights: Mapping[str, Tensor],
    layout: Layout,
    to: Mapping[str, Tensor],
    moves: Collection[str],
    evidence: Evidence,
) -> Alignment:
    a, b = ({name: tensor.detach().double() for name, tensor in w.items()} for w in (weights, to))
    folds = set(NULLS) <= set(moves)
    moves = set(moves) - set(NULLS) - (set() if folds else {"rotation"})
    if not folds:
        b = _expand(b, a)
        aligned = transform(a, _match(*evidence(a, b), layout, moves), layout)
        return Alignment(aligned, _distance(aligned, b))
    folded, gauge = fold(b, layout)
    balanced = balance(folded, layout)
    b, steps = choose(transform(folded, balanced, layout), layout)
    a = canonicalize(a, layout)
    maps = _match(*evidence(a, b := _expand(b, a)), layout, moves)
    aligned = transform(a, maps, layout)
    found = _distance(aligned, b)
    for step in reversed([balanced, *steps]):
        aligned = transform(aligned, _repeat(inverse(step), len(found)), layout)
    gauge = {name: tensor.expand(len(found), *tensor.shape[1:]) for name, tensor in gauge.items()}
    return Alignment(unfold(aligned, gauge, layout), found)


def _repeat(maps: Maps, size: int) -> Maps:
    """Repeats the maps of one checkpoint for each of a stack, as views."""
    return {
        name: Matrix(*(x.expand(size, *x.shape[1:]) for x in g)) if isinstance(g, Matrix) else g.expand(size, -1)
        for name, g in maps.items()
    }


def _expand(one: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Repeats a stack of one checkpoint for each of another stack, as views."""
    return {name: tensor.expand(len(like[name]), *tensor.shape[1:]) for name, tensor in one.items()}


def _distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Float[Tensor, "K"]:
    return torch.stack([(a[name] - b[name]).flatten(1).square().sum(1) for name in a]).sum(0).sqrt()


def _match(a: Mapping[str, Tensor], b: Mapping[str, Tensor], evidence: Layout, layout: Layout, moves: Collection[str]) -> Maps:
    """Climbs from stack `a` to stack `b` (of `evidence`) and returns the maps that it took."""
    maps: Maps = {}
    streams = [name for name in axes_of(evidence, ("resid",)) if {"resid", "rotation"} & set(moves)]
    neurons = list(axes_of(evidence, {"mlp"} & set(moves)))
    heads = list(axes_of(evidence, ("head",))) if {"head", *MAPPED} & set(moves) else []

    def take(steps: Maps) -> None:
        nonlocal a
        a = transform(a, steps, evidence)
        for name, step in steps.items():
            maps[name] = _compose(step, maps[name]) if name in maps else step

    before = _similarity(a, b)
    start: Maps = {}
    for name in streams:
        start |= _stream_step(a, b, evidence, layout, name, moves, anchored)
    better = _similarity(transform(a, start, evidence), b) > before
    take({name: _where(better, step) for name, step in start.items()})
    best = _similarity(a, b)
    for _ in range(SWEEPS):
        for name in heads:
            take(_head_step(a, b, evidence, name, moves, maps))
        for name in neurons:
            take({name: _assign(_products(a, b, evidence, name, lambda *_: True))})
        for name in streams:
            take(_stream_step(a, b, evidence, layout, name, moves, lambda *_: True))
        reached = _similarity(a, b)
        if (reached - best <= GAIN * _similarity(b, b)).all():
            break
        best = reached
    return maps


def _similarity(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Float[Tensor, "K"]:
    return torch.stack([(a[name] * b[name]).flatten(1).sum(1) for name in a]).sum(0)


def _products(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], layout: Layout, name: str, where: Callable[[Axis, list[Axis]], bool]
) -> Float[Tensor, "K n n"]:
    return gather(b, layout, name, where=where) @ gather(a, layout, name, where=where).mT


def _stream_step(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], evidence: Layout, layout: Layout, name: str, moves: Collection[str], where
) -> Maps:
    products = _products(a, b, evidence, name, where)
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
    turns: dict[str, Tensor] = {}
    for name in (name for name, owner in heads_of(layout).items() if owner == head):
        x, y = (torch.cat(pairs(w, layout, name), dim=-1) for w in (a, b))
        products = torch.einsum("k h i f, k g j f -> k h g i j", y, x)
        if name.partition(".")[0] in moves:
            u, s, vh = torch.linalg.svd(products)
            scores = scores + s.sum(-1)
            turns[name] = u @ vh
        else:
            scores = scores + products.diagonal(dim1=-2, dim2=-1).sum(-1)
    size = scores.shape[-1]
    order = _assign(scores) if "head" in moves else torch.arange(size, device=scores.device).expand(len(scores), size)
    steps: Maps = {head: order} if "head" in moves else {}
    rows = torch.arange(len(scores), device=scores.device).unsqueeze(1)
    for name, turn in turns.items():
        chosen = turn[rows, torch.arange(size, device=scores.device), order]
        steps[name] = Matrix(chosen, chosen)
        if name in maps:  # what was there belongs to the heads of the old order
            maps[name] = Matrix(*(pair[rows, order] for pair in maps[name]))
    return steps


def _where(chosen: Bool[Tensor, "K"], step: Int[Tensor, "K n"] | Matrix) -> Int[Tensor, "K n"] | Matrix:
    """Takes a step for the chosen checkpoints, and none for the others."""
    if isinstance(step, Matrix):
        matrix = torch.where(chosen[:, None, None], step.matrix, torch.eye(step.matrix.shape[-1]).to(step.matrix))
        return Matrix(matrix, matrix)
    return torch.where(chosen[:, None], step, torch.arange(step.shape[1], device=step.device))


def _compose(step: Int[Tensor, "K n"] | Matrix, last: Int[Tensor, "K n"] | Matrix) -> Int[Tensor, "K n"] | Matrix:
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


def _output_layout(layout: Layout, names: Collection[str]) -> Layout:
    """Returns the layout of `activations`: the axes of the layers' outputs, and one of samples."""
    sample = (Axis("sample", False),)
    slots = tuple(
        replace(slot, parts=tuple(replace(part, axes=(part.axes[0], sample)) for part in slot.parts), transposed=False)
        for slot in layout.slots
        if slot.name in names
    )
    return replace(layout, slots=slots)
