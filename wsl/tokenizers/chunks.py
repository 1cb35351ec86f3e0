"""The chunk tokenizer: all weights flattened, one tensor after the other, and cut into pieces of one width.

It knows no architecture, so it takes any checkpoint of floating-point tensors, with hardly any padding; what it does not
know either is what belongs together: a token may end in the middle of a vector and begin in another tensor. The plainest
tokenizer of the field (Peebles et al., 2022, "Learning to Learn with Generative Models of Neural Network Checkpoints",
arXiv 2209.12892, cuts large tensors so).

Tensors come in the order of their names, numbers by value; those whose names begin as those of heads do come last, as a
group of their own.
"""

import functools
import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from wsl.layout.slots import Axis, Layout, Part, Slot
from wsl.tokenizers.codec import Codec
from wsl.tokenizers.plan import Plan, end_to_end
from zoo_gen.errors import InputError

HEADS = ("head", "classifier", "score", "lm_head", "fc")
"""First parts of the names of heads, which fine-tuning makes anew."""


class Chunks(Codec):
    """Tokenizer of fixed chunks of all weights.

    Args:
        width: weights per token D.
        reference, form, scale, heads: what is encoded, as in `Codec`; canonical forms need an architecture of
            `wsl.layout.architectures`, the rest does not.
    """

    def __init__(self, *, width: int, reference: str, form: str = "raw", scale: str = "within", heads: int | None = None):
        super().__init__(reference=reference, form=form, scale=scale, heads=heads)
        if width < 1:
            raise InputError(f"width {width} of the tokenizer is not positive; 64 serves all usual models")
        self.width = width

    def layout(self, state_dict: Mapping[str, Tensor]) -> Layout:
        """Returns tensors in the order of their names, with neither axes nor blocks. Raises `InputError` if there are none."""
        return _layout(tuple(sorted((name, tuple(tensor.shape)) for name, tensor in state_dict.items())))

    def lay(self, layout: Layout, dtypes: tuple[torch.dtype, ...], differences: tuple[bool, ...]) -> Plan:
        """Returns the plan of a layout."""
        return _plan(layout, dtypes, differences, self.width)


@functools.lru_cache(maxsize=256)
def _layout(shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> Layout:
    if not shapes:
        raise InputError("the checkpoint has no tensors; pass the state dict of a model")
    slots = []
    for name, shape in sorted(shapes, key=lambda pair: _natural(pair[0])):
        if 0 in shape:
            raise InputError(f"tensor {name!r} of the checkpoint is empty; remove it")
        role, block = ("head", 1) if name.partition(".")[0] in HEADS else ("vectors", 0)
        axes = tuple((Axis(f"opaque.{name}.{i}", False),) for i in range(len(shape)))
        slots.append(
            Slot(name, shape, re.sub(r"(?<![^.])\d+(?![^.])", "{b}", name), (Part(role, block, shape[0] if shape else 1, axes),))
        )
    return Layout("any", 0, tuple(slots), ())


def _natural(name: str) -> list[str | int]:
    """Returns what a name is sorted by, texts and numbers by turns; a number has no more digits than Python converts."""
    return [int(text) if text.isdecimal() else text for text in re.split(r"(\d{1,1000})", name)]


@functools.lru_cache(maxsize=64)
def _plan(layout: Layout, dtypes: tuple[torch.dtype, ...], differences: tuple[bool, ...], width: int) -> Plan:
    return end_to_end(layout, dtypes, differences, width, _whole)


def _whole(slot: Slot, p: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns a tensor's number of weights and the step from one to the next."""
    return (math.prod(slot.shape),), (1,)
