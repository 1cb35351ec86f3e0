r"""Distances of all pairs of models in their weights, raw and modulo symmetry.

Raw ones follow from the inner products of task vectors (differences to a fixed model), by layer, of blocks of models: memory stays
flat beyond the N x N results. Modulo symmetry, each model is aligned to the first one of its root, and these to each other. One
alignment for each model and one for each pair of roots serve all pairs; distances are upper bounds of those of the orbits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wsl.layout.slots import Layout, Slot
from wsl.symmetry.forms import COMPACT, Forms
from wsl.symmetry.group import Maps, Matrix, transform
from wsl.symmetry.rotations import folded_layout
from wsl.symmetry.stacks import stack
from wsl.symmetry.weight_matching import match

State = Mapping[str, Tensor]
WEIGHTS_AT_ONCE = 2**27
"""Weights of all models of a block together: two blocks lie in memory."""

SAME = 1e-12
"""Squared distances below this share of the squared norms are round-off."""

FORMS_AT_ONCE = 64


@dataclass(frozen=True)
class WeightDistances:
    """Inner products of the weights of N models less those of one model, by layer, and of that model with itself and them.

    Attributes:
        grams: layer -> inner products of differences.
        with_origin, origin: layer -> inner products of differences with the weights of that model, and its squared norm.
    """

    grams: Mapping[str, Float[np.ndarray, "N N"]]
    with_origin: Mapping[str, Float[np.ndarray, " N"]]
    origin: Mapping[str, float]

    def distances(self, layer: str | None = None) -> Float[np.ndarray, "N N"]:
        """Returns Euclidean distances, of one layer or of all weights."""
        gram = self._sum(self.grams, layer)
        own, raw = np.diag(gram), np.diag(self.products(layer))
        squared = own[:, None] + own[None, :] - 2 * gram
        squared[squared < SAME * (raw[:, None] + raw[None, :])] = 0
        np.fill_diagonal(squared, 0)
        return np.sqrt(squared)

    def products(self, layer: str | None = None) -> Float[np.ndarray, "N N"]:
        """Returns the inner products of the weights themselves."""
        along = self._sum(self.with_origin, layer)
        return self._sum(self.grams, layer) + along[:, None] + along[None, :] + self._sum(self.origin, layer)

    def cosines(self, layer: str | None = None) -> Float[np.ndarray, "N N"]:
        """Returns the cosines of the weights; 0 where weights are all zero."""
        products = self.products(layer)
        norms = np.sqrt(np.clip(np.diag(products), 0, None))
        scale = norms[:, None] * norms[None, :]
        return np.clip(np.divide(products, scale, out=np.zeros_like(products), where=scale > 0), -1, 1)

    def norms(self, layer: str | None = None) -> Float[np.ndarray, " N"]:
        """Returns the norms of the weights."""
        return np.sqrt(np.clip(np.diag(self.products(layer)), 0, None))

    def _sum(self, by_layer: Mapping[str, Any], layer: str | None) -> Any:
        return by_layer[layer] if layer is not None else sum(by_layer.values())


def weight_distances(
    read: Sequence[Callable[[], State]], layers: Mapping[str, Sequence[str]], *, advance: Callable[[int], object]
) -> WeightDistances:
    """Measures all pairs.

    Args:
        read: reads each of N models; more than once, where two blocks of models do not hold all.
        layers: the names of the tensors of each layer.
        advance: is called with the number of models that were read.
    """
    n, first = len(read), read[0]()
    origin = {layer: _row(first, names) for layer, names in layers.items()}
    size = sum(map(len, origin.values()))
    length = max(1, min(n, WEIGHTS_AT_ONCE // max(1, size)))
    starts = range(0, n, length)
    grams = {layer: np.zeros((n, n)) for layer in layers}
    along = {layer: np.zeros(n) for layer in layers}

    def block(start: int) -> dict[str, Tensor]:
        rows = [read[place]() for place in range(start, min(start + length, n))]
        advance(len(rows))
        return {layer: torch.stack([_row(row, names) for row in rows]) - origin[layer] for layer, names in layers.items()}

    for i, start in enumerate(starts):
        own = block(start)
        for other_start in starts[i:]:
            other = own if other_start == start else block(other_start)
            for layer in layers:
                found = _product(own[layer], other[layer])
                grams[layer][start : start + length, other_start : other_start + length] = found
                grams[layer][other_start : other_start + length, start : start + length] = found.T
        for layer in layers:
            along[layer][start : start + length] = _product(own[layer], origin[layer][None])[:, 0]
    squares = {layer: float(row.double().square().sum()) for layer, row in origin.items()}
    return WeightDistances(grams, along, squares)


def distances_modulo_symmetry(
    groups: Sequence[Sequence[State]], layout: Layout, *, advance: Callable[[int], object]
) -> Float[np.ndarray, "N N"]:
    """Returns the distances of all pairs of models modulo symmetry.

    Args:
        groups: the models of each root, all of one layout; rows are in this order.
        layout: of all.
        advance: is called with the number of alignments that were made.
    """
    folded = folded_layout(layout)
    rows = []
    for group in groups:
        reference = Forms.of(_stack64(group[:1]), layout)
        found = []
        for start in range(0, len(group), FORMS_AT_ONCE):
            some = group[start : start + FORMS_AT_ONCE]
            found.append(Forms.of(_stack64(some), layout).vectors(reference))
            advance(len(some))
        rows.append(torch.from_numpy(np.concatenate(found)))
    stacks = [_unflatten(some, folded) for some in rows]
    ends = np.cumsum([0, *map(len, rows)])
    found = np.zeros((ends[-1], ends[-1]))
    for i, target in enumerate(rows):
        for j in range(i + 1):
            moved = rows[j]
            if j < i:
                one, to = ({name: tensor[:1] for name, tensor in some.items()} for some in (stacks[j], stacks[i]))
                maps = _repeated(match(one, to, folded, COMPACT), len(moved))
                moved = torch.cat([t.flatten(1) for t in _ordered(transform(stacks[j], maps, folded), folded)], dim=1)
                advance(1)
            apart = torch.cdist(target, moved, compute_mode="donot_use_mm_for_euclid_dist").numpy()
            found[ends[i] : ends[i + 1], ends[j] : ends[j + 1]] = apart
            found[ends[j] : ends[j + 1], ends[i] : ends[i + 1]] = apart.T
    np.fill_diagonal(found, 0)
    return found


def without_heads(state: State, like: State, layout: Layout) -> dict[str, Tensor]:
    """Returns the body of a model with a head of zeros in the shapes of another one's."""
    return {name: torch.zeros_like(tensor) if name in layout.head else state[name] for name, tensor in like.items()}


def _row(state: State, names: Sequence[str]) -> Float[Tensor, " W"]:
    return torch.cat([state[name].detach().float().flatten() for name in names])


def _product(a: Float[Tensor, "A W"], b: Float[Tensor, "B W"], *, columns: int = 2**16) -> np.ndarray:
    """Inner products in float64, so many columns at a time."""
    pieces = range(0, a.shape[1], columns)
    return sum((a[:, i : i + columns].double() @ b[:, i : i + columns].double().mT for i in pieces), torch.zeros(())).numpy()


def _stack64(states: Sequence[State]) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in stack(states).items()}


def _unflatten(rows: Float[Tensor, "N F"], layout: Layout) -> dict[str, Tensor]:
    pieces = rows.split([int(np.prod(_shape(slot))) for slot in layout.slots], dim=1)
    return {slot.name: piece.reshape(-1, *_shape(slot)) for slot, piece in zip(layout.slots, pieces, strict=True)}


def _shape(slot: Slot) -> tuple[int, ...]:
    """The shape in the checkpoint."""
    return (*slot.shape[:-2], *slot.shape[:-3:-1]) if slot.transposed else slot.shape


def _ordered(weights: Mapping[str, Tensor], layout: Layout) -> Iterator[Tensor]:
    return (weights[slot.name] for slot in layout.slots)


def _repeated(maps: Maps, n: int) -> Maps:
    """The maps of one checkpoint for each of n."""

    def expand(tensor: Tensor) -> Tensor:
        return tensor.expand(n, *tensor.shape[1:])

    return {name: Matrix(*map(expand, one)) if isinstance(one, Matrix) else expand(one) for name, one in maps.items()}
