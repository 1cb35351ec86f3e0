"""Plans: where in the tokens each weight lies.

Tokens of one plan are one flat buffer of `n_tokens * width` numbers. A segment is a strided window of it that holds
one part of one tensor; a tokenizer is nothing but a way to lay segments out, and encoding is one strided copy per
segment.
"""

import math
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from wsl.layout.slots import ROLES, Axis, Layout, Slot
from zoo_gen.wording import counted

SCALE = ((Axis("scale", False),),)
"""The axes of a slot that holds the binary logarithm of the scale of a tensor; its name does not tell: any tensor may have it."""

SMALL = 2**19
"""Weights of a checkpoint that is handled at once, at most: its tensors are small, and a call for each would take longest."""

PIECE = 2**13
"""Weights of a part that are summed up at once, about."""


@dataclass(frozen=True)
class Segment:
    """One part of one tensor and its window in the flat buffer of the tokens.

    `key` names the part (`blocks.1.attn.qkv.weight[0]`), `kind` names it for all blocks; `slot` is its place in the layout.
    The part is read as an array of `shape` both in the buffer, at `start` with `strides`, and in its tensor, at `offset`
    with `steps`. Where the tokenizer packs densely (`Residual`) the part fills the buffer from `start` to `stop` alone;
    elsewhere (`Rows`) it shares that range: `of` is right for both.
    """

    key: str
    kind: str
    slot: int
    shape: tuple[int, ...]
    start: int
    strides: tuple[int, ...]
    offset: int
    steps: tuple[int, ...]

    @classmethod
    def place(
        cls,
        layout: Layout,
        slot: int,
        part: int,
        *,
        shape: tuple[int, ...],
        start: int,
        strides: tuple[int, ...],
        steps: tuple[int, ...],
    ) -> "Segment":
        """Returns the segment of a part of a slot, with its names and its place in the tensor."""
        whole = layout.slots[slot]
        suffix = f"[{part}]" if len(whole.parts) > 1 else ""
        offset = whole.start(part) * math.prod(whole.shape[1:])
        return cls(whole.name + suffix, whole.row + suffix, slot, shape, start, strides, offset, steps)

    @cached_property
    def stop(self) -> int:
        """End of the range of the flat buffer."""
        return self.start + 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))

    @cached_property
    def n_weights(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def rows_of_piece(self) -> int:
        """Rows of the part that are summed up at once."""
        return max(1, PIECE * self.shape[0] // self.n_weights)

    @cached_property
    def flat(self) -> bool:
        """Whether the weights lie in the same order, without gaps, in the buffer and in the tensor."""
        dense = tuple(math.prod(self.shape[i + 1 :]) for i in range(len(self.shape)))
        return self.strides == self.steps == dense

    def of(self, values: Tensor) -> Tensor:
        """Returns this part's entries of values (... T D) as a view (..., *shape), to read or to write."""
        flat = values.view(*values.shape[:-2], -1)
        return flat.as_strided(
            (*flat.shape[:-1], *self.shape), (*flat.stride()[:-1], *self.strides), flat.storage_offset() + self.start
        )

    def of_tensor(self, tensor: Tensor) -> Tensor:
        """Returns this part of its (contiguous) tensor as a view of the same shape."""
        return tensor.as_strided(self.shape, self.steps, tensor.storage_offset() + self.offset)


@dataclass(frozen=True, repr=False)
class Group:
    """The tokens `start` to `stop` of one role in one block, and the segments in them."""

    block: int
    role: str
    start: int
    stop: int
    segments: tuple[Segment, ...]

    @property
    def n_weights(self) -> int:
        """Number of weights."""
        return sum(segment.n_weights for segment in self.segments)

    def __repr__(self) -> str:
        return f"Group(block {self.block}, {self.role}: tokens {self.start} to {self.stop}, {len(self.segments)} segments)"


class Region(NamedTuple):
    """Tensors that lie in one range of the flat buffer, from `start` on, which holds nothing but them and their scales.

    They are numbers of slots, those of the largest types first: side by side they fit into their range, each at a multiple of its
    type's bytes.
    """

    start: int
    slots: tuple[int, ...]


@dataclass(frozen=True, repr=False)
class Plan:
    """The place of every weight of a checkpoint in its tokens; hashable, equal for equal shapes, types and tokenizers.

    `dtypes` and `differences` go with `layout.slots`: the type of each tensor, and whether the tokens hold its
    difference to the root.
    `blank` lists the ranges of the flat buffer that are cleared before weights are written; they cover all padding.
    """

    layout: Layout
    dtypes: tuple[torch.dtype, ...]
    differences: tuple[bool, ...]
    width: int
    groups: tuple[Group, ...]
    blank: tuple[tuple[int, int], ...]

    def __hash__(self) -> int:
        return hash((self.layout, self.dtypes, self.differences, self.width, len(self.groups)))  # all groups would take far longer

    @property
    def n_tokens(self) -> int:
        """Number of tokens T."""
        return self.groups[-1].stop

    def __repr__(self) -> str:
        return f"Plan({counted(self.n_tokens, 'token')} of {self.width} for {counted(self.n_weights, 'weight')}, {self.layout!r})"

    @cached_property
    def parts(self) -> tuple[Segment, ...]:
        """All segments, group by group."""
        return tuple(segment for group in self.groups for segment in group.segments)

    @cached_property
    def n_weights(self) -> int:
        """Number of values that are no padding: weights, and scales where they are kept apart."""
        return sum(group.n_weights for group in self.groups)

    @property
    def small(self) -> bool:
        """Whether all weights are handled at once."""
        return self.n_weights <= SMALL

    @cached_property
    def dtype(self) -> torch.dtype:
        """Type of the values: that of the tensors, or one that holds all of them."""
        return reduce(torch.promote_types, self.dtypes)

    @cached_property
    def uniform(self) -> bool:
        """Whether all tensors are of one type, which NumPy has and is quick at."""
        return self.dtype in (torch.float32, torch.float64) and set(self.dtypes) == {self.dtype}

    @cached_property
    def nbytes(self) -> tuple[int, ...]:
        """Bytes of the tensor of each slot."""
        return tuple(math.prod(s.shape) * dtype.itemsize for s, dtype in zip(self.layout.slots, self.dtypes, strict=True))

    @cached_property
    def segments(self) -> tuple[tuple[Segment, ...], ...]:
        """The segments of each slot of the layout."""
        found: list[list[Segment]] = [[] for _ in self.layout.slots]
        for segment in self.parts:
            found[segment.slot].append(segment)
        return tuple(map(tuple, found))

    @cached_property
    def tensors(self) -> tuple[tuple[int, Slot], ...]:
        """Places in the layout, and slots, of the checkpoint's tensors: all but those of their scales."""
        return tuple((i, slot) for i, slot in enumerate(self.layout.slots) if slot.parts[0].axes != SCALE)

    @cached_property
    def scales(self) -> dict[int, int]:
        """Place of each tensor's scale in the layout, where scales are kept apart: they come in the order of the tensors."""
        places = [i for i, slot in enumerate(self.layout.slots) if slot.parts[0].axes == SCALE]
        return {i: place for (i, _), place in zip(self.tensors, places, strict=bool(places))}

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """The smallest regions that there are, in order: for most tokenizers one for each block of the model."""
        ranges = []
        for i, _ in self.tensors:
            segments = self.segments[i] + (self.segments[self.scales[i]] if i in self.scales else ())
            ranges.append((min(s.start for s in segments), max(s.stop for s in segments), i))
        found: list[tuple[int, list[int]]] = []
        end = 0
        for start, stop, i in sorted(ranges):
            if not found or start >= end:
                found.append((start, []))
            found[-1][1].append(i)
            end = max(end, stop)
        return tuple(Region(start, tuple(sorted(slots, key=lambda i: -self.dtypes[i].itemsize))) for start, slots in found)

    @cached_property
    def mask(self) -> Bool[Tensor, "T D"]:
        """True where a weight is, False where padding is. Shared by all tokens of the plan; read only."""
        return self.part_of >= 0

    @cached_property
    def part_of(self) -> Int[Tensor, "T D"]:
        """Number of the part, in the order of `parts`, that each value belongs to; -1 where padding is. Read only."""
        numbers = torch.full((self.n_tokens, self.width), -1, dtype=torch.int32)
        for number, segment in enumerate(self.parts):
            segment.of(numbers).fill_(number)
        return numbers

    @cached_property
    def group_of(self) -> Int[Tensor, " T"]:
        """Number of the group of each token. Read only."""
        counts = torch.tensor([group.stop - group.start for group in self.groups])
        return torch.arange(len(self.groups)).repeat_interleave(counts)

    @cached_property
    def positions(self) -> Int[Tensor, "T P"]:
        """Block (0 stem, 1.. blocks, depth + 1 tail), place of the role in `ROLES`, index in the group. Read only."""
        first = torch.tensor([[group.block, ROLES.index(group.role), -group.start] for group in self.groups])
        positions = first[self.group_of]
        positions[:, 2] += torch.arange(self.n_tokens)
        return positions


def coverage(plan: Plan) -> pd.DataFrame:
    """Returns how many weights of a checkpoint its tokens hold, and how much of them is padding.

    The frame is indexed by the role of the tokens, with `total` as its last row. Columns: `weights` (entries that hold one),
    `tokens` (count), `padding` (share of the entries that hold none).
    """
    rows = [(group.role, group.n_weights, group.stop - group.start) for group in plan.groups]
    frame = pd.DataFrame(rows, columns=["role", "weights", "tokens"]).groupby("role", sort=False).sum()
    frame.loc["total"] = frame.sum()
    frame["padding"] = 1 - frame["weights"] / (frame["tokens"] * plan.width)
    return frame
