"""The residual-stream tokenizer: weights by role, as vectors of the residual stream.

Nearly every weight of a transformer belongs to a vector that is read from or written to the residual stream: rows of
q, k, v, fc1 and the head; columns of the attention's output, fc2 and the patch filters; class token, position
embeddings, norms. The parts of one (block, role) are laid end to end in that basis, vector after vector, and cut into
tokens of one width, which mixed zoos share: a vector of 192 is three tokens of 64, and a token of 64 holds two
vectors of 32. Padding is only at the end of a group.
"""

import math

from wsl.layout.slots import Slot
from wsl.tokenizers.end_to_end import EndToEnd


class Residual(EndToEnd):
    """Tokenizer of vectors in the residual stream. Arguments are those of `EndToEnd`."""

    @staticmethod
    def arrange(slot: Slot, p: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Returns a part's number and length of vectors, and the steps from vector to vector and along each in its tensor.

        Vectors run along the residual axis where that is the first or the last, and along the last axis otherwise.
        """
        first = slot.parts[p].size
        rest = math.prod(slot.shape[1:])
        writes = any(axis.kind == "resid" for dim in slot.parts[p].axes[:1] for axis in dim)
        if writes and rest > 1:
            return (rest, first), (1, rest)
        last = slot.shape[-1] if len(slot.shape) > 1 else first
        return (first * rest // last, last), (last, 1)
