"""The residual-stream tokenizer: weights by role, as vectors of the residual stream.

Nearly every weight of a transformer belongs to a vector that is read from or written to the residual stream: rows of
q, k, v, fc1 and the head; columns of the attention's output, fc2 and the patch filters; class token, position
embeddings, norms. The parts of one (block, role) are laid end to end in that basis, vector after vector, and cut into
tokens of one width, which mixed zoos share: a vector of 192 is three tokens of 64, and a token of 64 holds two
vectors of 32. Padding is only at the end of a group.
"""

import functools

import torch

from wsl.layout import Layout
from wsl.tokenizers.codec import Codec
from wsl.tokenizers.plan import Group, Plan, Segment
from zoo_gen.errors import InputError


class Residual(Codec):
    """Tokenizer of vectors in the residual stream.

    Args:
        width: weights per token D; 64 divides the usual widths.
        reference: "none" for the weights themselves, "root" for differences to the root's.
    """

    def __init__(self, *, width: int, reference: str):
        super().__init__(reference=reference)
        if width < 1:
            raise InputError(f"width {width} of the tokenizer is not positive; 64 serves all usual models")
        self.width = width

    def lay(self, layout: Layout, dtypes: tuple[torch.dtype, ...], differences: tuple[bool, ...]) -> Plan:
        """Returns the plan of a layout."""
        return _plan(layout, dtypes, differences, self.width)


@functools.lru_cache(maxsize=64)
def _plan(layout: Layout, dtypes: tuple[torch.dtype, ...], differences: tuple[bool, ...], width: int) -> Plan:
    groups, blank, token = [], [], 0
    for (block, role), members in layout.groups().items():
        segments, end = [], token * width
        for s, p in members:
            shape, strides = _vectors(layout, s, p)
            segments.append(Segment.place(layout, s, p, shape, strides, start=end))
            end = segments[-1].stop
        stop = -(-end // width)
        groups.append(Group(block, role, token, stop, tuple(segments)))
        blank.append((end, stop * width))
        token = stop
    return Plan(layout, dtypes, differences, width, tuple(groups), tuple(blank))


def _vectors(layout: Layout, s: int, p: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns shape and strides that lay a part out densely with the residual axis last."""
    slot = layout.slots[s]
    sizes = (slot.shape[0] // len(slot.parts), *slot.shape[1:])
    residual = next(
        (i for i, axes in enumerate(slot.parts[p].axes) if any(axis.kind == "resid" for axis in axes)), len(sizes) - 1
    )
    before, vector, after = (
        torch.Size(cut).numel() for cut in (sizes[:residual], sizes[residual : residual + 1], sizes[residual + 1 :])
    )
    if after == 1:
        return (before * vector,), (1,)
    return (before, vector, after), (vector * after, 1, vector)
