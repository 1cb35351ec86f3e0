"""Profiles: what the moves of other axes leave alone of each entry of an axis, so that a copy is found wherever it is.

Weight matching climbs one axis at a time, and the assignment of each axis needs its neighbours. From weights as they are, the
matching of a chain of layers in another order therefore ends early, even if it is a copy. The norms and sorted values of a neuron's
weights do not depend on the order of its neighbours.
"""

from collections.abc import Collection, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from wsl.layout.slots import Layout
from wsl.symmetry.canonical import signs_of
from wsl.symmetry.group import MAPPED, PERMUTED, Maps, Matrix, axes_of, transform
from wsl.symmetry.weight_matching import Entries, assign, match

ROUND_OFF = 1e-12
"""An end is better than another if its similarity is larger by more than this, relative to that."""


def match_twice(a: Mapping[str, Tensor], b: Mapping[str, Tensor], layout: Layout, moves: Collection[str]) -> Maps:
    """Climbs from each checkpoint of a stack as it is and, again, from the permutations that its profiles suggest.

    Args:
        a, b, layout, moves: see `match`.

    Returns:
        The maps of the more similar end, for each checkpoint.
    """
    start: Maps = {}
    moving, target = Entries.of(a, layout), Entries.of(b, layout)
    for name in axes_of(layout, set(PERMUTED) & set(moves)):
        start[name] = assign(_profiles(target, name, moves) @ _profiles(moving, name, moves).mT)
    first = match(a, b, layout, moves)
    if not start and "sign" not in moves:
        return first
    nearer = transform(a, start, layout)
    if "sign" in moves:
        ours, theirs = signs_of(nearer, layout), signs_of(b, layout)
        signs: Maps = {name: Matrix(*(x * y for x, y in zip(ours[name], theirs[name], strict=True))) for name in ours}
        start |= signs
        nearer = transform(nearer, signs, layout)
    second = match(nearer, b, layout, moves)
    ends = [Entries.of(transform(w, maps, layout), layout).similarity(target) for w, maps in ((a, first), (nearer, second))]
    better = ends[1] - ends[0] > ROUND_OFF * ends[0].abs()
    rows = torch.arange(len(better), device=better.device)[:, None]
    found: Maps = {}
    for name, one in first.items():
        other = second[name]
        if isinstance(other, Matrix) and name in start:  # signs of the old order
            before, order = start[name], second.get(layout.owners[name])
            before = before if order is None else Matrix(*(x[rows, order] for x in before))
            other = Matrix(*(x * y for x, y in zip(other, before, strict=True)))
        if isinstance(one, Matrix):
            found[name] = Matrix(
                *(torch.where(better.view(-1, *[1] * (x.ndim - 1)), y, x) for x, y in zip(one, other, strict=True))
            )
        else:
            before = start[name]
            assert isinstance(before, Tensor)
            assert isinstance(other, Tensor)
            found[name] = torch.where(better[:, None], before.gather(1, other), one)
    return found


def _profiles(stack: Entries, name: str, moves: Collection[str]) -> Float[Tensor, "K n F"]:
    """Describes each entry of an axis by numbers that the moves of the other axes leave alone: norms, and values in order."""
    found = []
    for names, x in stack.entries.items():
        if name in names:
            place = names.index(name)
            x = x.movedim(2 + place, 1)
            kinds = [one.partition(".")[0] for i, one in enumerate(names) if i != place]
            for i in reversed(range(len(kinds))):
                if kinds[i] in MAPPED and kinds[i] in moves:
                    x = x.norm(dim=3 + i)
                    del kinds[i]
            moved = [3 + i for i, kind in enumerate(kinds) if kind in moves]
            x = x.movedim(moved, list(range(-len(moved), 0)))
            found.append((x.flatten(-len(moved)).sort(-1).values if moved else x).flatten(2))
    return torch.cat(found, dim=-1)
