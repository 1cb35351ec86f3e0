"""Windows of a plan: some consecutive tokens, read from their own tensors alone.

With weights in memory-mapped files, reading a window touches the pages of its own weights alone (and of the root's), so its cost
does not depend on the size of the model.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from wsl.layout.slots import Slot
from wsl.tokenizers.plan import Plan, Segment

Sums = Float[Tensor, "parts 2"]
"""Sum and sum of squares of each part of a checkpoint, in double precision; statistics and log-scales follow from them."""


class Piece(NamedTuple):
    """Weights of one tensor that lie in a window: the number of the slot, places in the flat window, places in the flat tensor."""

    slot: int
    places: Int[Tensor, " n"]
    source: Int[Tensor, " n"]


@dataclass(frozen=True)
class Window:
    """The tokens `start` to `stop` of a plan.

    Attributes:
        plan: of the whole checkpoint.
        start, stop: range of the tokens.
        parts: number of the part, in the order of `plan.parts`, that each value belongs to; -1 where padding is.
        groups: number of each token's group.
        positions: as those of the plan.
        pieces: where the weights are read.
    """

    plan: Plan
    start: int
    stop: int
    parts: Int[Tensor, "T D"]
    groups: Int[Tensor, " T"]
    positions: Int[Tensor, "T P"]
    pieces: tuple[Piece, ...]

    @classmethod
    def of(cls, plan: Plan, start: int, stop: int) -> "Window":
        """Finds the weights in a range of tokens."""
        first, last = start * plan.width, stop * plan.width
        parts, pieces = torch.full((last - first,), -1), []
        for number, segment in enumerate(plan.parts):
            if segment.start < last and segment.stop > first:
                places, source = _overlap(segment, first, last)
                parts[places] = number
                pieces.append(Piece(segment.slot, places, _in_file(plan.layout.slots[segment.slot], source)))
        parts = parts.view(stop - start, plan.width)
        return cls(plan, start, stop, parts, plan.group_of[start:stop], plan.positions[start:stop], tuple(pieces))

    def read(self, state_dict: Mapping[str, Tensor], root: Mapping[str, Tensor] | None) -> Float[Tensor, "T D"]:
        """Reads the window's values: those of the whole checkpoint's tokens to the bit, zero where padding is."""
        values = torch.zeros(self.parts.shape, dtype=self.plan.dtype)
        for piece in self.pieces:
            name = self.plan.layout.slots[piece.slot].name
            weights = state_dict[name].reshape(-1)[piece.source].to(self.plan.dtype)
            if self.plan.differences[piece.slot]:
                assert root is not None  # a plan without a root has no differences
                weights = weights - root[name].reshape(-1)[piece.source].to(self.plan.dtype)
            values.view(-1)[piece.places] = weights
        return values


def parts_of(plan: Plan, state_dict: Mapping[str, Tensor], root: Mapping[str, Tensor] | None) -> Iterator[Iterator[Tensor]]:
    """Yields the values of each part, in the order of `plan.parts`, as flat pieces of some rows.

    Pieces are small, as large blocks of memory that come and go between lasting small ones would leave holes behind.
    """
    for segment in plan.parts:
        slot = plan.layout.slots[segment.slot]
        weights = segment.of_tensor(slot.turn(state_dict[slot.name]).contiguous())
        if plan.differences[segment.slot]:
            assert root is not None  # a plan without a root has no differences
            origin = segment.of_tensor(slot.turn(root[slot.name]).contiguous())
            yield (a - b for a, b in zip(_pieces(segment, weights, plan.dtype), _pieces(segment, origin, plan.dtype), strict=True))
        else:
            yield _pieces(segment, weights, plan.dtype)


def parts_in(plan: Plan, values: Float[Tensor, "T D"]) -> Iterator[Iterator[Tensor]]:
    """Yields the same from the values of a checkpoint's tokens."""
    return (_pieces(segment, segment.of(values), plan.dtype) for segment in plan.parts)


def sums_of(parts: Iterable[Iterable[Tensor]]) -> Sums:
    """Returns the sums of a checkpoint from the flat pieces of its parts.

    NumPy adds contiguous numbers up in an order that depends on their count alone, so the bits do not depend on where the values
    lie, nor on threads (as those of PyTorch's sums do).
    """
    rows = []
    with np.errstate(over="ignore", invalid="ignore"):
        for pieces in parts:
            row = np.zeros(2)
            for piece in pieces:
                values = piece.double().numpy()
                row += values.sum(), np.square(values).sum()
            rows.append(row)
    return torch.from_numpy(np.stack(rows))


def sums_in(plan: Plan, values: Float[Tensor, "T D"]) -> Sums:
    """Returns the sums of a checkpoint from the values of its tokens: those of `parts_in`, to the bit."""
    if not plan.small:
        return sums_of(parts_in(plan, values))
    places, starts, parts = _places(plan)
    sums = np.zeros((len(plan.parts), 2))
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = np.append(values.detach().reshape(-1).double().numpy(), 0.0)[places]  # a sum begins with zero
        np.add.at(sums[:, 0], parts, np.add.reduceat(numbers, starts))
        np.add.at(sums[:, 1], parts, np.add.reduceat(np.square(numbers), starts))
    return torch.from_numpy(sums)


@functools.lru_cache(maxsize=16)
def _places(plan: Plan) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " pieces"], Int[np.ndarray, " pieces"]]:
    """Returns places in the flat buffer, its end before each piece of a part; where pieces start among them; their parts."""
    buffer = torch.arange(plan.n_tokens * plan.width).view(plan.n_tokens, plan.width)
    places, parts = [], []
    for number, segment in enumerate(plan.parts):
        for piece in _pieces(segment, segment.of(buffer), buffer.dtype):
            places.append(functional.pad(piece, (1, 0), value=buffer.numel()))
            parts.append(number)
    return torch.cat(places).numpy(), np.cumsum([0, *map(len, places[:-1])]), np.array(parts)


def _pieces(segment: Segment, part: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yields the rows of a part, flat, some at once."""
    return (rows.to(dtype).flatten() for rows in part.split(segment.rows_of_piece))


def _overlap(segment: Segment, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Returns places in the range `first` to `last` of the flat buffer, counted from `first`, and in the segment's flat tensor."""
    start = max(first, segment.start)
    rest = torch.arange(start, min(last, segment.stop)) - segment.start
    inside, source = torch.ones_like(rest, dtype=torch.bool), torch.full_like(rest, segment.offset)
    for size, stride, step in zip(segment.shape, segment.strides, segment.steps, strict=True):
        index = rest // stride
        inside &= index < size
        source += index * step
        rest = rest % stride
    (kept,) = torch.where(inside & (rest == 0))
    return kept + (start - first), source[kept]


def _in_file(slot: Slot, source: Tensor) -> Tensor:
    """Turns places in a slot's flat tensor into places in the file's, which may have its last dimensions the other way round."""
    if not slot.transposed or len(slot.shape) < 2:
        return source
    rows, columns = slot.shape[-2:]
    matrix, row, column = source // (rows * columns), source // columns % rows, source % columns
    return (matrix * columns + column) * rows + row


def window_starts(tokens: int, length: int) -> list[int]:
    """Starts of windows that cover `tokens` tokens; the last one is moved back to be full rather than padded."""
    return [*range(0, tokens - length, length), max(0, tokens - length)]


def padded(tensor: Float[Tensor, "*B T D"], length: int) -> Float[Tensor, "*B length D"]:
    """Returns tokens, their masks or positions, padded to a length: with zeros, positions with -1."""
    missing = length - tensor.shape[-2]
    return functional.pad(tensor, (0, 0, 0, missing), value=-1 if tensor.dtype == torch.int64 else 0) if missing else tensor
