"""The row tokenizer of the field: one token per output channel, its weights with its bias appended, zero-padded.

This is the reference for comparisons, after SANE (Schürholt et al., 2024, arXiv 2406.09997), made lossless: position
embeddings are a row each, and every vector that is no bias of a matrix (norms, layer scale, class token) is a row of
its own. The width is that of the widest row of the checkpoint, unless told otherwise: a longer row is then padded to a
multiple of the width, and is several tokens.
"""

import functools
import math

import torch

from wsl.layout.slots import Layout, Slot
from wsl.tokenizers.codec import Codec
from wsl.tokenizers.plan import Group, Plan, Segment
from zoo_gen.errors import InputError


class Rows(Codec):
    """Tokenizer of rows of weight matrices.

    Args:
        width: numbers per token D; None for the widest row of the checkpoint.
        reference, form, scale, heads: what is encoded, as in `Codec`.
    """

    def __init__(
        self, *, reference: str, width: int | None = None, form: str = "raw", scale: str = "within", heads: int | None = None
    ):
        super().__init__(reference=reference, form=form, scale=scale, heads=heads)
        if width is not None and width < 1:
            raise InputError(f"width {width} of the tokenizer is not positive; null is the widest row of the checkpoint")
        self.width = width

    def lay(self, layout: Layout, dtypes: tuple[torch.dtype, ...], differences: tuple[bool, ...]) -> Plan:
        """Returns the plan of a layout."""
        return _plan(layout, dtypes, differences, self.width)


@functools.lru_cache(maxsize=64)
def _plan(layout: Layout, dtypes: tuple[torch.dtype, ...], differences: tuple[bool, ...], given: int | None) -> Plan:
    matrix_of = _matrices_with_bias(layout.slots)
    bias_of = {matrix: bias for bias, matrix in matrix_of.items()}
    width = given or max(
        _rows(slot, p)[1] + (s in bias_of)
        for s, slot in enumerate(layout.slots)
        if s not in matrix_of
        for p in range(len(slot.parts))
    )
    groups, token = [], 0
    for (block, role), members in layout.groups().items():
        segments, first = [], token
        for s, p in members:
            if s in matrix_of:
                continue
            rows, columns = _rows(layout.slots[s], p)
            tokens = -(-(columns + (s in bias_of)) // width)  # of a row
            step, start = tokens * width, token * width
            shape = (rows, columns)
            segments.append(Segment.place(layout, s, p, shape=shape, start=start, strides=(step, 1), steps=(columns, 1)))
            if s in bias_of:
                place = {"shape": (rows,), "start": start + columns, "strides": (step,), "steps": (1,)}
                segments.append(Segment.place(layout, bias_of[s], p, **place))
            token += rows * tokens
        if segments:
            groups.append(Group(block, role, first, token, tuple(segments)))
    return Plan(layout, dtypes, differences, width, tuple(groups), blank=((0, token * width),))


def _rows(slot: Slot, p: int) -> tuple[int, int]:
    """Returns rows and columns of a part of a tensor: a row per output channel or position, one for a vector."""
    n = slot.parts[p].size
    if len(slot.shape) <= 1:
        return 1, n
    if slot.parts[0].axes[0][0].name == "1":  # tokens and position embeddings: (1, positions, width)
        return math.prod(slot.shape[:-1]), slot.shape[-1]
    return n, math.prod(slot.shape[1:])


def _matrices_with_bias(slots: tuple[Slot, ...]) -> dict[int, int]:
    """Returns bias -> matrix, as places in `slots`, for the biases that have one entry per row of a matrix."""
    matrices = {slot.name[: -len("weight")] + "bias": s for s, slot in enumerate(slots) if len(slot.shape) > 1}
    found = {s: matrices[slot.name] for s, slot in enumerate(slots) if slot.name in matrices}
    return {s: m for s, m in found.items() if slots[s].shape == slots[m].shape[:1]}
