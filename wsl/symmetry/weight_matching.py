r"""Weight matching: the permutations and orthogonal maps that bring one stack of checkpoints as near to another as they can.

In standard form (`wsl.symmetry.canonical.standardize`) all remaining symmetries keep distances, so the nearest member of an orbit
maximises :math:`\langle g a, b \rangle`. One axis at a time has a closed solution, given the others, from the products
:math:`G = \sum b\, a^T` of all entries along it:

- permutations: an assignment (Ainsworth et al., Git Re-Basin, 2209.04836);
- rotations: the orthogonal polar factor of G (Procrustes);
- heads: both, where the score of a pair of heads is the nuclear norm of their product.

Alternating the axes climbs to a local optimum. The first step uses the vectors of the residual stream that no other symmetry moves
(patch filters, position embeddings, biases, heads), where they bring the two nearer.
"""

from collections.abc import Callable, Collection, Mapping

import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from wsl.layout.slots import Axis, Layout
from wsl.symmetry.group import MAPPED, PERMUTED, Maps, Matrix, axes_of, move_axis, split
from wsl.symmetry.rotations import frame_of, lift, rotatable

SWEEPS = 100
"""Most rounds over all axes; a handful is usual."""

GAIN = 1e-5
"""Sweeps end where the similarity of no checkpoint grows by more than this, relative to the squared norm of its target."""

RIDGE = 1e-3
"""Weight of the identity in the first step, relative to the products of the vectors that the step matches."""


def match(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], layout: Layout, moves: Collection[str], *, sweeps: int = SWEEPS
) -> Maps:
    """Climbs from each checkpoint of a stack to that of another; the others in the stack do not matter.

    Args:
        a: the stack (K, *shape) that moves.
        b: the stack that it moves to: K checkpoints, or one for all.
        layout: of both.
        moves: which of `wsl.symmetry.group.MOVES`; null directions are ignored.
        sweeps: most rounds over all axes, at least 1; fewer end before the optimum.

    Returns:
        The maps that were taken.
    """
    maps: Steps = {}
    streams = {name: "rotation" in moves and rotatable(layout, name) for name in axes_of(layout, ("resid",))}
    streams = {name: rotates for name, rotates in streams.items() if rotates or "resid" in moves}
    features: dict[str, set[str]] = {}
    for feature, owner in layout.owners.items():
        features.setdefault(owner, set()).add(feature.partition(".")[0])
    kinds = [kind for kind in PERMUTED if kind != "resid"]
    heads = [name for name in sorted(features) if {name.partition(".")[0], *features[name]} & set(moves)]
    axes_of(layout, {name.partition(".")[0] for name in heads})  # their number is known
    neurons = [name for name in axes_of(layout, set(kinds) & set(moves)) if name not in features]
    moving, target = Entries.of(a, layout), Entries.of(b, layout)

    def take(steps: Steps) -> None:
        nonlocal moving
        moving = moving.moved(steps)
        for name, step in steps.items():
            last = maps.get(name)
            maps[name] = step if last is None else last.gather(1, step) if step.ndim == 2 else step @ last

    before = moving.similarity(target)
    first: Steps = {}
    for name, rotates in streams.items():
        first |= _stream_step(moving, target, layout, name, _anchored, rotates=rotates)
    nearer = moving.moved(first)
    better = nearer.similarity(target) > before
    maps = {name: _where(better, step) for name, step in first.items()}
    moving = nearer if better.all() else moving.moved(maps)
    best = moving.similarity(target)
    least = GAIN * target.similarity(target).expand_as(best)
    climbing = torch.arange(len(best), device=best.device)
    ended: list[tuple[Int[Tensor, " k"], Steps]] = []
    for sweep in range(sweeps):
        for name in heads:
            take(_head_step(moving, target, layout, name, moves, maps))
        for name in neurons:
            take({name: assign(moving.products(target, (name,), _everywhere))})
        for name, rotates in streams.items():
            take(_stream_step(moving, target, layout, name, _everywhere, rotates=rotates))
        reached = moving.similarity(target)
        climbs = (reached - best > least) & (sweep + 1 < sweeps)
        ended.append((climbing[~climbs], {name: step[~climbs] for name, step in maps.items()}))
        if not climbs.any():
            break
        moving, target = moving.chosen(climbs), target.chosen(climbs)
        maps = {name: step[climbs] for name, step in maps.items()}
        climbing, best, least = climbing[climbs], reached[climbs], least[climbs]
    order = torch.cat([places for places, _ in ended]).argsort()
    found = {name: torch.cat([steps[name] for _, steps in ended])[order] for name in maps}
    return {name: step if step.ndim == 2 else Matrix(step, step) for name, step in found.items()}


Steps = dict[str, Tensor]
"""How axes move: permutations (K n), orthogonal matrices (K n n), or such matrices of each head (K H n n)."""

Where = Callable[[tuple[str, ...]], bool]
"""Whether entries count, from the names of the axes that move them."""

_KINDS = ("head", *MAPPED, "mlp", "dim", "register", "resid")


def _everywhere(names: tuple[str, ...]) -> bool:
    return True


def _anchored(names: tuple[str, ...]) -> bool:
    return len(names) == 1


class Entries:
    """Entries of K checkpoints by the axes that move them: names of axes -> (K, entries, *sizes).

    An axis and its dual count as the same, as all maps are orthogonal.
    """

    def __init__(self, entries: dict[tuple[str, ...], Tensor], owners: Mapping[str, str]):
        self.entries, self.owners = entries, owners

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], layout: Layout) -> "Entries":
        """Sorts the weights of a stack (K, *shape) by their axes."""
        sizes = dict(layout.sizes)
        found: dict[tuple[str, ...], list[Tensor]] = {}
        for slot in layout.slots:
            for part, piece in zip(slot.parts, slot.pieces(weights[slot.name]), strict=True):
                dims = tuple(dim if all(axis.name in sizes for axis in dim) else (Axis("unknown", False),) for dim in part.axes)
                axes = enumerate((axis for dim in dims for axis in dim), 1)
                order = sorted((_KINDS.index(axis.kind), axis.name, i) for i, axis in axes if axis.kind in _KINDS)
                x = split(piece, dims, sizes).movedim([i for *_, i in order], list(range(-len(order), 0)))
                x = x.reshape(len(x), -1, *x.shape[x.ndim - len(order) :])
                found.setdefault(tuple(name for _, name, _ in order), []).append(x)
        return cls({names: torch.cat(xs, dim=1) for names, xs in found.items()}, layout.owners)

    def moved(self, maps: Steps) -> "Entries":
        """Moves the axes: permutations first, as matrices belong to the heads of the new order."""
        entries = dict(self.entries)
        for name, g in sorted(maps.items(), key=lambda item: item[1].ndim > 2):
            if g.ndim == 2 and bool((g == torch.arange(g.shape[1], device=g.device)).all()):
                continue
            for names in (names for names in entries if name in names):
                head = 2 + names.index(self.owners[name]) if g.ndim == 4 else 0
                for i in (i for i, one in enumerate(names, 2) if one == name):
                    entries[names] = move_axis(entries[names], i, g, head=head)
        return Entries(entries, self.owners)

    def products(self, other: "Entries", axes: tuple[str, ...], where: Where) -> Float[Tensor, "K n n"]:
        """Sums the products of all entries along axes of n places: rows are of the other stack, columns of this one."""
        found: list[Tensor] = []
        for names, x in self.entries.items():
            if set(axes) <= set(names):
                dims = [2 + names.index(axis) for axis in axes]
                last = list(range(-len(axes), 0))
                x, y = (w.movedim(dims, last).flatten(-len(axes)).flatten(1, -2) for w in (x, other.entries[names]))
                found.append(y.mT @ x if where(names) else x.new_zeros(len(x), x.shape[-1], x.shape[-1]))
        return torch.stack(found).sum(0)

    def similarity(self, other: "Entries") -> Float[Tensor, "K"]:
        """Inner products with another stack."""
        return torch.stack([(x * other.entries[names]).flatten(1).sum(1) for names, x in self.entries.items()]).sum(0)

    def chosen(self, rows: Bool[Tensor, "K"]) -> "Entries":
        """Chooses some of the checkpoints, or the only one there is."""
        entries = {names: x[rows] if len(x) > 1 else x for names, x in self.entries.items()}
        return Entries(entries, self.owners)


def _stream_step(a: Entries, b: Entries, layout: Layout, name: str, where: Where, *, rotates: bool) -> Steps:
    products = a.products(b, (name,), where)
    if not rotates:
        return {name: assign(products)}
    frame = frame_of(layout, name, products.dtype, products.device)
    products = frame.T @ products @ frame
    if where is _anchored:  # few vectors leave directions free: those stay as they are, whatever the round-off
        ridge = RIDGE * products.flatten(1).norm(dim=1)[:, None, None]
        products = products + ridge * torch.eye(products.shape[-1]).to(products)
    return {name: lift(_polar(products), frame)}


def _head_step(a: Entries, b: Entries, layout: Layout, head: str, moves: Collection[str], maps: Steps) -> Steps:
    """Assigns heads (or other owners) and turns their features: a pair scores the similarity that it has under its best maps."""
    size = dict(layout.sizes)[head]
    scores = a.products(b, (head,), lambda names: not any(name.partition(".")[0] in MAPPED for name in names))
    turned: dict[str, Tensor] = {}
    for name in (name for name, owner in layout.owners.items() if owner == head):
        products = a.products(b, (head, name), _everywhere).unflatten(2, (size, -1)).unflatten(1, (size, -1)).transpose(2, 3)
        if name.partition(".")[0] in moves:
            scores = scores + _nuclear(products)
            turned[name] = products
        else:
            scores = scores + products.diagonal(dim1=-2, dim2=-1).sum(-1)
    permuted = head.partition(".")[0] in moves
    order = assign(scores) if permuted else torch.arange(size, device=scores.device).expand(len(scores), size)
    steps: Steps = {head: order} if permuted else {}
    rows = torch.arange(len(scores), device=scores.device).unsqueeze(1)
    for name, products in turned.items():
        steps[name] = _polar(products[rows, torch.arange(size, device=scores.device), order])
        if name in maps:  # earlier maps belong to the heads of the old order
            maps[name] = maps[name][rows, order]
    return steps


def _where(chosen: Bool[Tensor, "K"], step: Tensor) -> Tensor:
    """Takes a step of a stream for the chosen checkpoints, and none for the others."""
    if step.ndim == 2:
        return torch.where(chosen[:, None], step, torch.arange(step.shape[1], device=step.device))
    return torch.where(chosen[:, None, None], step, torch.eye(step.shape[-1]).to(step))


def assign(scores: Float[Tensor, "K n n"]) -> Int[Tensor, "K n"]:
    """Returns, for each row, the column of the assignment of largest total score."""
    columns = scores.argmax(-1)
    shared = (columns.sort(-1).values != torch.arange(scores.shape[-1], device=scores.device)).any(-1)
    for k in shared.nonzero().flatten().tolist():  # elsewhere each row has the largest score of a column of its own
        columns[k] = torch.from_numpy(linear_sum_assignment(scores[k].detach().cpu().numpy(), maximize=True)[1])
    return columns


def _nuclear(products: Float[Tensor, "*K n n"]) -> Float[Tensor, "*K"]:
    """Returns the nuclear norm of each product."""
    if products.shape[-1] == 1:
        return products.abs()[..., 0, 0]
    return torch.linalg.eigvalsh(products.mT @ products).clamp_min(0).sqrt().sum(-1)


def _polar(products: Float[Tensor, "*K n n"]) -> Float[Tensor, "*K n n"]:
    """Returns the orthogonal matrix nearest to each product."""
    if products.shape[-1] == 1:
        return torch.where(products < 0, -1, 1).to(products)
    u, _, vh = torch.linalg.svd(products)
    return u @ vh
