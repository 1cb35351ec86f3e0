r"""The symmetries of a checkpoint: sample a group element, apply it; the function stays, the weights do not.

Generic: it reads the axes and rules of a layout and knows no architecture. An element g has

- a permutation for each axis of kind `resid`, `mlp`, `head`, `dim` and `register`;
- an invertible matrix for each head on each axis of kind `qk` and `vo` (dual axes take its inverse transposed);
- a number for each neuron on each axis of kind `factor` (dual axes take its inverse), and a sign on each of kind `sign`;
- a rotation of each residual stream, where no norm's scale forbids it, that fixes the mean unless all norms are known to be
  RMSNorms: this changes the form, as every norm is folded into the next layer first and stays folded;
- a strength of random null directions (`wsl.symmetry.null_directions`).

Everything is batched over a stack of K checkpoints, name -> (K, *shape), each with its own element.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from wsl.layout.slots import MAPPED, PERMUTED, Axes, Axis, Layout, owners
from wsl.symmetry.null_directions import NULLS, fold, random_gauge, unfold
from wsl.symmetry.rotations import folded_layout, frame_of, lift, rotatable
from wsl.symmetry.stacks import check_stack
from zoo_gen.errors import InputError

MOVES = (*PERMUTED, *MAPPED, "rotation", *NULLS)
"""The kinds of moves of an element: kinds of axes, rotations of the residual stream, kinds of null directions."""


class Matrix(NamedTuple):
    """An invertible map g (K [H] n n) and its dual, the inverse transposed."""

    matrix: Tensor
    dual: Tensor


Maps = dict[str, Int[Tensor, "K n"] | Matrix]
"""How each axis moves: new feature i is old feature `permutation[:, i]`, or new features are `matrix @ old`."""


@dataclass(frozen=True)
class Element:
    """One symmetry for each checkpoint of a stack: rotations, then maps of axes. Without rotations nothing is folded."""

    maps: Maps
    rotations: Maps


def check_moves(moves: Collection[str]) -> None:
    """Raises `InputError` for moves that are a string, or not all of `MOVES`."""
    if isinstance(moves, str):
        raise InputError(f"moves is the string {moves!r}; pass a collection of names, ({moves!r},)")
    if unknown := sorted(set(moves) - set(MOVES)):
        raise InputError(f"unknown moves {', '.join(unknown)}; choose among {', '.join(MOVES)}")


def axes_of(layout: Layout, kinds: Collection[str]) -> dict[str, int]:
    """Returns axis -> size for the axes of some kinds.

    Raises:
        InputError: the size of one is not known as the number of heads is not.
    """
    names = {axis.name: axis.kind for slot in layout.slots for part in slot.parts for dim in part.axes for axis in dim}
    sizes = dict(layout.sizes)
    wanted = sorted(name for name, kind in names.items() if kind in kinds)
    if missing := [name for name in wanted if name not in sizes]:
        raise InputError(f"the size of axis {missing[0]!r} does not follow from the shapes; pass heads=... to layout_of")
    return {name: sizes[name] for name in wanted}


def sample(
    layout: Layout,
    size: int,
    generator: torch.Generator,
    *,
    moves: Collection[str],
    maps: str,
    dtype: torch.dtype,
) -> Element:
    """Draws a random element for each of `size` checkpoints, but for null directions, which `random_view` draws.

    Args:
        layout: with the number of heads, where `moves` has heads or their features.
        size: number of checkpoints K.
        generator: draws everything, on its own device.
        moves: which of `MOVES`; null directions are ignored.
        maps: of queries and keys, values and outputs: "orthogonal", "diagonal" or "general" (both with condition number
            up to 10). Of factors: signs, positive numbers, or any but zero. Signs are signs.
        dtype: of matrices.
    """
    check_moves(moves)
    if maps not in ("orthogonal", "diagonal", "general"):
        raise InputError(f"unknown maps {maps!r}; choose orthogonal, diagonal or general")
    drawn: Maps = {}
    for name, n in axes_of(layout, set(moves) & set(PERMUTED)).items():
        drawn[name] = torch.rand(size, n, generator=generator, device=generator.device).argsort(1)
    sizes = dict(layout.sizes)
    for name, n in axes_of(layout, set(moves) & set(MAPPED)).items():
        many = sizes[layout.owners[name]]
        kind = "orthogonal" if name.partition(".")[0] == "sign" else maps
        drawn[name] = _map(size * many, n, generator, kind, dtype, heads=many)
    rotations: Maps = {}
    if "rotation" in moves:
        for name in axes_of(layout, ("resid",)):
            if rotatable(layout, name):
                frame = frame_of(layout, name, dtype, generator.device)
                turn = lift(_orthogonal(size, frame.shape[1], generator, dtype), frame)
                rotations[name] = Matrix(turn, turn)
    return Element(drawn, rotations)


def apply(element: Element, weights: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Moves each checkpoint of a stack (K, *shape) by its element, its function the same; rotations leave the stack folded."""
    check_stack(weights, layout)
    turned = transform(fold(weights, layout)[0], element.rotations, folded_layout(layout)) if element.rotations else weights
    return transform(turned, element.maps, layout)


def random_view(
    weights: Mapping[str, Tensor],
    layout: Layout,
    generator: torch.Generator,
    *,
    moves: Collection[str],
    maps: str,
    strength: float,
) -> dict[str, Tensor]:
    """Returns a stack (K, *shape) moved by random elements: augmentation for training, and copies in disguise.

    Args:
        weights: the stack.
        layout: of the stack.
        generator: draws everything.
        moves: which of `MOVES`. With "rotation", norms whose null direction is not moved stay folded.
        maps: see `sample`.
        strength: of null directions, the standard deviation of biases, means and logarithms of scales.
    """
    check_stack(weights, layout)
    first = next(iter(weights.values()))
    element = sample(layout, len(first), generator, moves=moves, maps=maps, dtype=first.dtype)
    if not (nulls := set(moves) & set(NULLS)):
        return apply(element, weights, layout)
    folded, own = fold(weights, layout)
    if element.rotations:
        _, own = fold(folded, layout)  # the plain gauge, which rotations leave as it is
    gauge = random_gauge(own, layout, generator, nulls=nulls, strength=strength)
    turned = transform(folded, element.rotations, folded_layout(layout))
    return transform(unfold(turned, gauge, layout), element.maps, layout)


def transform(weights: Mapping[str, Tensor], maps: Maps, layout: Layout) -> dict[str, Tensor]:
    """Moves the axes of a stack (K, *shape); tensors without any of them are passed on as they are."""
    sizes = dict(layout.sizes)
    moved = {}
    for slot in layout.slots:
        tensor = weights[slot.name]
        if any(axis.name in maps for part in slot.parts for dim in part.axes for axis in dim):
            turned = [_move(piece, part.axes, maps, sizes) for piece, part in zip(slot.pieces(tensor), slot.parts, strict=True)]
            tensor = slot.turn(torch.cat(turned, dim=1) if len(turned) > 1 else turned[0])
        moved[slot.name] = tensor
    return moved


def inverse(maps: Maps) -> Maps:
    """Returns the maps that undo these, which move heads or the features of heads, not both."""
    return {name: Matrix(g.dual.mT, g.matrix.mT) if isinstance(g, Matrix) else g.argsort(1) for name, g in maps.items()}


def split(piece: Tensor, axes: Axes, sizes: Mapping[str, int]) -> Tensor:
    """Gives each axis of a part of a stack (K, *dims) a dimension of its own."""
    shape = [
        size
        for i, dim in enumerate(axes)
        for size in ([sizes[axis.name] for axis in dim] if len(dim) > 1 else [piece.shape[1 + i]])
    ]
    return piece.reshape(len(piece), *shape)


def _move(piece: Tensor, axes: Axes, maps: Maps, sizes: Mapping[str, int]) -> Tensor:
    if not any(axis.name in maps for dim in axes for axis in dim):
        return piece
    axes = tuple(dim if all(axis.name in sizes for axis in dim) else (Axis("unknown", False),) for dim in axes)
    flat = [axis for dim in axes for axis in dim]
    x = split(piece, axes, sizes)
    of = owners(axes)
    for kinds in (PERMUTED, MAPPED):  # matrices belong to the heads of the new order
        for i, axis in enumerate(flat, 1):
            g = maps.get(axis.name)
            if g is not None and (axis.kind in PERMUTED) == (kinds is PERMUTED):
                head = 1 + of.get(i - 1, -1)
                x = move_axis(x, i, (g.dual if axis.dual else g.matrix) if isinstance(g, Matrix) else g, head=head)
    return x.reshape(piece.shape)


def move_axis(x: Tensor, i: int, g: Tensor, *, head: int) -> Tensor:
    """Moves dimension i of (K, *dims) by a permutation (K n), a matrix (K n n), or one of each head (K H n n) along `head`."""
    if g.ndim == 2:
        rows = torch.arange(len(x), device=x.device).unsqueeze(1)
        return x.movedim(i, 1)[rows, g.to(x.device)].movedim(1, i)
    if g.ndim == 3:
        y = x.movedim(i, -1)
        return (y.reshape(len(y), -1, y.shape[-1]) @ g.to(x).mT).view(y.shape).movedim(-1, i)
    y = x.movedim((head, i), (1, -1))
    return (y.reshape(*y.shape[:2], -1, y.shape[-1]) @ g.to(x).mT).view(y.shape).movedim((1, -1), (head, i))


def _orthogonal(size: int, n: int, generator: torch.Generator, dtype: torch.dtype) -> Float[Tensor, "K n n"]:
    """Draws orthogonal matrices uniformly (Haar)."""
    q, r = torch.linalg.qr(torch.randn(size, n, n, generator=generator, dtype=dtype, device=generator.device))
    return q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)


def _map(size: int, n: int, generator: torch.Generator, maps: str, dtype: torch.dtype, *, heads: int) -> Matrix:
    if maps == "orthogonal":
        q = rearrange(_orthogonal(size, n, generator, dtype), "(k h) i j -> k h i j", h=heads)
        return Matrix(q, q)
    scales = 10 ** (torch.rand(size, 1, n, generator=generator, dtype=dtype, device=generator.device) - 0.5)
    if maps == "diagonal":
        left, right = torch.eye(n, dtype=dtype, device=generator.device).expand(2, size, n, n)
    else:
        left, right = _orthogonal(2 * size, n, generator, dtype).chunk(2)
    pair = [(left * scale) @ right.mT for scale in (scales, 1 / scales)]
    return Matrix(*(rearrange(matrix, "(k h) i j -> k h i j", h=heads) for matrix in pair))
