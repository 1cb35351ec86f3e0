"""Plans that lay the parts of each (block, role) end to end and cut them into tokens of one width."""

import functools
import math
from abc import abstractmethod
from collections.abc import Callable

import torch

from wsl.layout.slots import Layout, Slot
from wsl.tokenizers.codec import Codec
from wsl.tokenizers.plan import Group, Plan, Segment
from zoo_gen.errors import InputError


class EndToEnd(Codec):
    """Tokenizer whose tokens are padded at the end of each group alone; `arrange` is the order of the weights of a part.

    Args:
        width: weights per token D; 64 divides the usual widths.
        reference, form, scale, heads: as in `Codec`.
    """

    def __init__(self, *, width: int, reference: str, form: str = "raw", scale: str = "within", heads: int | None = None):
        super().__init__(reference=reference, form=form, scale=scale, heads=heads)
        if width < 1:
            raise InputError(f"width {width} of the tokenizer is not positive; 64 serves all usual models")
        self.width = width

    @staticmethod
    @abstractmethod
    def arrange(slot: Slot, p: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Returns the shape that part `p` of a slot is read in, and the steps along each axis in its tensor."""

    def lay(self, layout: Layout, dtypes: tuple[torch.dtype, ...], differences: tuple[bool, ...]) -> Plan:
        """Returns the plan of a layout."""
        return _plan(layout, dtypes, differences, self.width, self.arrange)


@functools.lru_cache(maxsize=64)
def _plan(
    layout: Layout,
    dtypes: tuple[torch.dtype, ...],
    differences: tuple[bool, ...],
    width: int,
    arrange: Callable[[Slot, int], tuple[tuple[int, ...], tuple[int, ...]]],
) -> Plan:
    groups, blank, token = [], [], 0
    for (block, role), members in layout.groups().items():
        segments, end = [], token * width
        for s, p in members:
            shape, steps = arrange(layout.slots[s], p)
            strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
            segments.append(Segment.place(layout, s, p, shape=shape, start=end, strides=strides, steps=steps))
            end = segments[-1].stop
        stop = -(-end // width)
        groups.append(Group(block, role, token, stop, tuple(segments)))
        blank.append((end, stop * width))
        token = stop
    return Plan(layout, dtypes, differences, width, tuple(groups), tuple(blank))
