"""The residual-stream tokenizer: weights by role, as vectors of the residual stream.

Nearly every weight of a transformer belongs to a vector that is read from or written to the residual stream: rows of
q, k, v, fc1 and the head; columns of the attention's output, fc2 and the patch filters; class token, position
embeddings, norms. The parts of one (block, role) are laid end to end in that basis, vector after vector, and cut into
tokens of one width, which mixed zoos share: a vector of 192 is three tokens of 64, and a token of 64 holds two
vectors of 32. Padding is only at the end of a group.
"""

import functools
import math

import torch

from wsl.layout.slots import Layout, Slot
from wsl.tokenizers.codec import Codec
from wsl.tokenizers.plan import Plan, end_to_end
from zoo_gen.errors import InputError


class Residual(Codec):
    """Tokenizer of vectors in the residual stream.

    Args:
        width: weights per token D; 64 divides the usual widths.
        reference, form, scale, heads: what is encoded, as in `Codec`.
    """

    def __init__(self, *, width: int, reference: str, form: str = "raw", scale: str = "within", heads: int | None = None):
        super().__init__(reference=reference, form=form, scale=scale, heads=heads)
        if width < 1:
            raise InputError(f"width {width} of the tokenizer is not positive; 64 serves all usual models")
        self.width = width

    def lay(self, layout: Layout, dtypes: tuple[torch.dtype, ...], differences: tuple[bool, ...]) -> Plan:
        """Returns the plan of a layout."""
        return _plan(layout, dtypes, differences, self.width)


@functools.lru_cache(maxsize=64)
def _plan(layout: Layout, dtypes: tuple[torch.dtype, ...], differences: tuple[bool, ...], width: int) -> Plan:
    return end_to_end(layout, dtypes, differences, width, _vectors)


def _vectors(slot: Slot, p: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns a part's number and length of vectors, and the steps from vector to vector and along each in its tensor.

    Vectors run along the residual axis where that is the first or the last, and along the last axis otherwise.
    """
    first = slot.parts[p].size
    rest = math.prod(slot.shape[1:])
    writes = any(axis.kind == "resid" for axis in slot.parts[p].axes[0])
    if writes and rest > 1:
        return (rest, first), (1, rest)
    last = slot.shape[-1] if len(slot.shape) > 1 else first
    return (first * rest // last, last), (last, 1)
