"""The chunk tokenizer: all weights flattened, one tensor after the other, and cut into pieces of one width.

The tokenizer knows no architecture, so it takes any checkpoint of floating-point tensors, with hardly any padding. A token may end
in the middle of a vector and begin in another tensor. Chunks are the plainest tokenizer of the field: Peebles et al., "Learning to
Learn with Generative Models of Neural Network Checkpoints", arXiv 2209.12892, cut large tensors so.

Tensors come in the order of their names, numbers by value; those whose names begin as those of heads do come last, as a
group of their own.
"""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from wsl.layout.lookup import refuse_idle
from wsl.layout.slots import Layout, Slot, opaque_slot
from wsl.tokenizers.end_to_end import EndToEnd
from zoo_gen.errors import InputError

HEADS = ("head", "classifier", "score", "lm_head", "fc")
"""First parts of the names of heads, which fine-tuning makes anew."""


class Chunks(EndToEnd):
    """Tokenizer of fixed chunks of all weights.

    Arguments are those of `EndToEnd`. Canonical forms need an architecture of `wsl.layout.architectures`, the rest does not.
    """

    def layout(self, state_dict: Mapping[str, Tensor], *, opaque: Sequence[str] = ()) -> Layout:
        """Returns tensors in the order of their names, with neither axes nor blocks: all are opaque, whatever `opaque` names.

        Raises `InputError` if there are none, or a pattern names none.
        """
        refuse_idle(opaque, state_dict)
        return _layout(tuple(sorted((name, tuple(tensor.shape)) for name, tensor in state_dict.items())))

    @staticmethod
    def arrange(slot: Slot, p: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Returns a tensor's number of weights and the step from one to the next."""
        return (math.prod(slot.shape),), (1,)


@functools.lru_cache(maxsize=256)
def _layout(shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> Layout:
    if not shapes:
        raise InputError("the checkpoint has no tensors; pass the state dict of a model")

    def natural(pair: tuple[str, tuple[int, ...]]) -> list[str | int]:  # a number has no more digits than Python converts
        return [int(text) if text.isdecimal() else text for text in re.split(r"(\d{1,1000})", pair[0])]

    slots = []
    for name, shape in sorted(shapes, key=natural):
        if 0 in shape:
            raise InputError(f"tensor {name!r} of the checkpoint is empty; remove it")
        role, block = ("head", 1) if name.partition(".")[0] in HEADS else ("vectors", 0)
        row = re.sub(r"(?<![^.])\d+(?![^.])", "{b}", name)
        slots.append(replace(opaque_slot(name, shape, block=block, role=role), row=row))
    return Layout("any", 0, tuple(slots), ())
