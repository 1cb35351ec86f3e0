r"""Canonical form: one checkpoint for all that the symmetries of its table make of it, `canonicalize(g · w) == canonicalize(w)`.

1. **Fold** every null direction away (`wsl.symmetry.null_directions`).
2. **Balance** the maps of each head: of features X (rows) and their duals Y only :math:`X^T Y = U S V^T` matters, which
   is written as :math:`X = \sqrt S U^T`, :math:`Y = \sqrt S V^T`. The rest of the group is compact: permutations and
   orthogonal maps. The next steps keep distances.
3. **Residual streams**: features in the order of their norms; or, where rotations are symmetries, the eigenvectors of
   :math:`\sum x x^T` over all vectors x of the stream as coordinates of the space without mean.
4. **Heads** and hidden **neurons** in the order of their norms; rows of a head in the order of S, signs fixed.

Ties have rules of their own: rows of equal S (or eigenvalues) are triangularised with pivots, and the first entry that differs
orders neurons of equal norm. Dead or duplicate neurons tie fully, and any order gives the same checkpoint. Two ties stay open:
features of a stream that are equal in norm where only permutations act on it, and a head's rows of S = 0 (which are zero).

The form jumps under noise near a tie. So the canonical form recognises copies; `wsl.symmetry.alignment` measures distances. All
numbers are in float64, on the device of the weights.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from wsl.layout.slots import Axis, Layout
from wsl.symmetry.group import MAPPED, PERMUTED, Maps, Matrix, axes_of, split, transform
from wsl.symmetry.null_directions import fold
from wsl.symmetry.rotations import folded_layout, frame_of, rotatable
from wsl.symmetry.stacks import check_stack
from zoo_gen.errors import InputError
from zoo_gen.finite import all_finite

TIE = 1e-9
"""Norms and singular values nearer to each other than this, relative to the largest, count as equal."""

ZERO = 1e-13
"""Singular values below this, relative to the largest, are round-off of zero."""


def canonicalize(weights: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Brings each checkpoint of a stack (K, *shape) to its canonical form, a checkpoint of the same function.

    Args:
        weights: the stack, of any floating type.
        layout: of the stack, with the number of heads.

    Returns:
        The stack of canonical forms in float64.
    """
    return choose(standardize(weights, layout), layout)[0]


def choose(standard: Mapping[str, Tensor], layout: Layout) -> tuple[dict[str, Tensor], list[Maps]]:
    """Chooses one of the standard forms of a stack (K, *shape).

    Returns:
        The canonical form, and the maps that lead there from the given one, one after the other.
    """
    layout = folded_layout(layout)
    steps = [_streams(standard, layout)]
    w = transform(standard, steps[-1], layout)
    owning = set(layout.owners.values())
    order: Maps = {}
    for name in axes_of(layout, [kind for kind in PERMUTED if kind != "resid"]):
        order[name] = _order(_heads(w, layout, name) if name in owning else gather(w, layout, name, where=lambda *_: True))
    w = transform(w, order, layout)
    steps += [order, _signs(w, layout)]
    w = transform(w, steps[-1], layout)
    if axes_of(layout, ("sign",)):
        steps.append({**signs_of(w, layout)})
        w = transform(w, steps[-1], layout)
    return w, steps


def standardize(weights: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Folds and balances a stack (K, *shape), in float64: its remaining symmetries are permutations and orthogonal maps."""
    check_stack(weights, layout)
    if broken := [name for name, tensor in weights.items() if not all_finite((tensor,))]:
        raise InputError(f"tensor {broken[0]!r} is not finite, so it has no canonical form; leave diverged checkpoints out")
    folded, _ = fold({name: tensor.detach().double() for name, tensor in weights.items()}, layout)
    return transform(folded, balance(folded, layout), layout)


def gather(
    weights: Mapping[str, Tensor], layout: Layout, name: str, *, where: Callable[[Axis, list[Axis]], bool]
) -> Float[Tensor, "K n *F"]:
    """Gathers entries along an axis of a stack: (K, n, F), or (K, H, d, F) for features of a head (or of other owners).

    Args:
        weights: the stack.
        layout: of the stack.
        name: the axis.
        where: says, from the axis and the other axes of a part, whether the part counts.
    """
    sizes, head = dict(layout.sizes), layout.owners.get(name)
    leading = (name,) if head is None else (head, name)
    found = []
    for slot in layout.slots:
        for p, part in enumerate(slot.parts):
            flat = [axis for dim in part.axes for axis in dim]
            names = [axis.name for axis in flat]
            if name in names and where(flat[names.index(name)], [axis for axis in flat if axis.name not in leading]):
                x = split(slot.pieces(weights[slot.name])[p], part.axes, sizes).movedim(
                    [1 + names.index(axis) for axis in leading], list(range(1, 1 + len(leading)))
                )
                found.append(x.reshape(*x.shape[: 1 + len(leading)], -1))
    if not found:
        shape = [sizes[axis] for axis in leading]
        return next(iter(weights.values())).new_zeros(len(next(iter(weights.values()))), *shape, 0)
    return torch.cat(found, dim=-1)


def pairs(weights: Mapping[str, Tensor], layout: Layout, name: str) -> tuple[Tensor, Tensor]:
    """Gathers the features that invertible maps of heads act on and those of the dual: (K, H, d, F) and (K, H, d, F')."""
    plain = gather(weights, layout, name, where=lambda axis, others: not axis.dual)
    return plain, gather(weights, layout, name, where=lambda axis, others: axis.dual)


def balance(w: Mapping[str, Tensor], layout: Layout) -> Maps:
    """Returns the maps of each head that balance a folded stack."""
    maps: Maps = {}
    for name, size in axes_of(layout, [kind for kind in MAPPED if kind != "sign"]).items():
        (_, rx), (_, ry) = (torch.linalg.qr(functional.pad(x, (0, max(0, size - x.shape[-1]))).mT) for x in pairs(w, layout, name))
        u, s, vh = torch.linalg.svd(rx @ ry.mT)
        root = torch.where(s > ZERO * s.amax(-1, keepdim=True), s, 0).sqrt().unsqueeze(-1)
        maps[name] = Matrix(root * (u.mT @ torch.linalg.pinv(rx.mT)), root * (vh @ torch.linalg.pinv(ry.mT)))
    return maps


def _streams(w: Mapping[str, Tensor], layout: Layout) -> Maps:
    maps: Maps = {}
    for name in axes_of(layout, ("resid",)):
        x = gather(w, layout, name, where=lambda *_: True)
        # what nothing else moves, such as position embeddings, biases and heads
        anchors = gather(w, layout, name, where=lambda _, others: not any(one.kind in (*PERMUTED, *MAPPED) for one in others))
        if not rotatable(layout, name):
            maps[name] = _order(torch.cat([x.norm(dim=-1, keepdim=True), anchors], dim=-1))
            continue
        frame = frame_of(layout, name, x.dtype, x.device)
        values, vectors = torch.linalg.eigh(frame.T @ (x @ x.mT) @ frame)
        basis = vectors.flip(-1).mT @ frame.T
        resolved = _resolve(values.flip(-1), basis @ anchors)
        turn = frame @ resolved @ basis + (1 / len(frame) if len(frame) > frame.shape[1] else 0)
        maps[name] = Matrix(turn, turn)
    return maps


def _heads(w: Mapping[str, Tensor], layout: Layout, name: str) -> Float[Tensor, "K H F"]:
    """Describes each head, or other owner of features, by numbers that orthogonal maps of these leave alone."""
    found = [gather(w, layout, name, where=lambda axis, others: not any(other.kind in MAPPED for other in others))]
    for feature in (axis for axis, head in layout.owners.items() if head == name):
        for x in pairs(w, layout, feature):
            found += [x.norm(dim=-1), x.norm(dim=-2)]
    return torch.cat(found, dim=-1)


def _signs(w: Mapping[str, Tensor], layout: Layout) -> Maps:
    maps: Maps = {}
    for name in axes_of(layout, [kind for kind in MAPPED if kind != "sign"]):
        x = torch.cat(pairs(w, layout, name), dim=-1)
        flat = rearrange(x, "k h d f -> (k h) d f")
        turn = _resolve(flat.square().sum(-1), flat).view(*x.shape[:3], x.shape[2])
        maps[name] = Matrix(turn, turn)
    return maps


def signs_of(w: Mapping[str, Tensor], layout: Layout) -> dict[str, Matrix]:
    """Returns the signs of neurons after which the largest entry of each, of those that no open sign moves, is positive.

    Axes have their turn one after the other, that with most such entries first: signs of a chain of layers depend on each other.
    """
    maps: dict[str, Matrix] = {}
    open_ = list(axes_of(layout, ("sign",)))

    def settled(axis: Axis, others: list[Axis]) -> bool:
        return not any(other.name in open_ for other in others)

    while open_:
        name, x = max(((one, gather(w, layout, one, where=settled)) for one in open_), key=lambda item: item[1].shape[-1])
        if not x.shape[-1]:
            x = gather(w, layout, name, where=lambda *_: True)
        largest = x.gather(-1, x.abs().argmax(-1, keepdim=True))
        turn = torch.where(largest < 0, -1, 1).to(x)
        maps[name] = Matrix(turn, turn)
        w = transform(w, {name: maps[name]}, layout)
        open_.remove(name)
    return maps


def _order(features: Float[Tensor, "K n F"]) -> Int[Tensor, "K n"]:
    """Orders by descending norm; ties by the first feature that differs."""
    keys = torch.cat([features.norm(dim=-1, keepdim=True), features], dim=-1).cpu().numpy()
    order = np.stack([_lexical(rows, np.arange(len(rows)), 0) for rows in keys])
    return torch.from_numpy(order).to(features.device)


def _lexical(keys: Float[np.ndarray, "n F"], rows: np.ndarray, column: int) -> np.ndarray:
    """Orders rows by descending keys from a column on, where keys within a tolerance of each other are equal."""
    values = keys[rows, column]
    rows = rows[np.argsort(-values, kind="stable")]
    values = keys[rows, column]
    apart = values[:-1] - values[1:] > TIE * np.abs(keys[:, 0]).max()
    if column + 1 == keys.shape[1] or apart.all():
        return rows
    ties = np.split(rows, 1 + np.flatnonzero(apart))
    return np.concatenate([_lexical(keys, tie, column + 1) if len(tie) > 1 else tie for tie in ties])


def _resolve(values: Float[Tensor, "N n"], features: Float[Tensor, "N n F"]) -> Float[Tensor, "N n n"]:
    """Returns orthogonal maps that make signs, and bases of equal values, depend on the row space alone.

    Args:
        values: descending; rows of distinct values are determined but for their sign.
        features: of each row.
    """
    if features.shape[-1] == 0:
        return torch.eye(values.shape[1]).to(features).expand(len(values), -1, -1)
    largest = features.gather(-1, features.abs().argmax(-1, keepdim=True)).squeeze(-1)
    maps = torch.diag_embed(torch.where(largest < 0, -1.0, 1.0).to(features))
    scale = values.abs().amax(-1, keepdim=True)
    tied = (values.diff(dim=-1).abs() <= TIE * scale) & (values[:, 1:] > TIE * scale)
    for k in torch.nonzero(tied.any(-1)).flatten().tolist():
        start = 0
        for stop in [*(1 + torch.nonzero(~tied[k]).flatten()).tolist(), values.shape[1]]:
            if stop - start > 1:
                maps[k, start:stop, start:stop] = _triangularize(features[k, start:stop])
            start = stop
    return maps


def _triangularize(rows: Float[Tensor, "g F"]) -> Float[Tensor, "g g"]:
    """Returns the orthogonal map after which the columns of largest norm, one after the other, are triangular."""
    rest, basis = rows, []
    for _ in range(len(rows)):
        pivot = rest[:, rest.norm(dim=0).argmax()]
        basis.append(pivot / pivot.norm().clamp_min(torch.finfo(rows.dtype).tiny))
        rest = rest - torch.outer(basis[-1], basis[-1] @ rest)
    return torch.stack(basis)
