"""The codec behind every tokenizer: weights into the places of a plan and back, to the bit.

Copies are exact. Differences are not: in float32, root + (child - root) is off by a rounding error for a few percent
of the weights. So encoding decodes what it wrote, with the arithmetic of decoding, and stores the bits of every
weight that came out otherwise.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from wsl.layout import Layout, layout_of
from wsl.tokenizers.plan import Plan
from wsl.tokenizers.tokens import Correction, Tokens
from zoo_gen.errors import InputError

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class Codec(ABC):
    """A tokenizer but for the laying out, which `lay` does.

    Args:
        reference: "none" for tokens of the weights themselves, "root" for differences to the root's weights.
    """

    def __init__(self, *, reference: str):
        if reference not in ("none", "root"):
            raise InputError(f"reference {reference!r} of the tokenizer is neither 'none' nor 'root'; choose one of them")
        self.reference = reference

    @abstractmethod
    def lay(self, layout: Layout, dtypes: tuple[torch.dtype, ...], differences: tuple[bool, ...]) -> Plan:
        """Returns the plan of a layout, given the type of each slot and whether it is coded as a difference."""

    def plan(self, state_dict: Mapping[str, Tensor], *, root: Mapping[str, Tensor] | None = None) -> Plan:
        """Returns where each weight would lie; reads names, shapes and types only. Raises as `encode` does."""
        layout = layout_of(state_dict)
        differences = _differences(layout, root) if self.reference == "root" else (False,) * len(layout.slots)
        return self.lay(layout, _dtypes(layout, state_dict), differences)

    def encode(self, state_dict: Mapping[str, Tensor], *, root: Mapping[str, Tensor] | None = None) -> Tokens:
        """Returns the tokens of a checkpoint. Raises `InputError` for unknown tensors and for a missing root."""
        return pack(self.plan(state_dict, root=root), state_dict, root)

    def decode(self, tokens: Tokens, *, root: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Returns the checkpoint of tokens. Raises `InputError` for a missing or unfit root."""
        return unpack(tokens, root)


def _dtypes(layout: Layout, state_dict: Mapping[str, Tensor]) -> tuple[torch.dtype, ...]:
    for slot in layout.slots:
        dtype = state_dict[slot.name].dtype
        if not dtype.is_floating_point or dtype.itemsize not in _INTEGERS:
            raise InputError(
                f"tensor {slot.name!r} is {dtype}, no weight; convert it to float32, bfloat16 or float16, or remove it"
            )
    return tuple(state_dict[slot.name].dtype for slot in layout.slots)


def _differences(layout: Layout, root: Mapping[str, Tensor] | None) -> tuple[bool, ...]:
    """Returns what is coded as a difference: everything but heads, which are made anew, and what has no counterpart."""
    if root is None:
        raise InputError("the tokenizer's reference is 'root'; pass root=<state dict of the model this one was fine-tuned from>")
    return tuple(
        slot.parts[0].role != "head" and slot.name in root and tuple(slot.turn(root[slot.name]).shape) == slot.shape
        for slot in layout.slots
    )


def pack(plan: Plan, state_dict: Mapping[str, Tensor], root: Mapping[str, Tensor] | None) -> Tokens:
    """Copies weights into the places of a plan; `root` is read where the plan has differences."""
    device = state_dict[plan.layout.slots[0].name].device
    values = torch.empty(plan.n_tokens, plan.width, dtype=plan.dtype, device=device)
    for start, stop in plan.blank:
        values.view(-1)[start:stop] = 0
    corrections = []
    for i, slot in enumerate(plan.layout.slots):
        weight = slot.turn(state_dict[slot.name].detach()).contiguous()
        difference, dtype = plan.differences[i], plan.dtypes[i]
        source = weight.to(plan.dtype) - _counterpart(plan, i, root) if difference else weight
        for segment in plan.segments[i]:
            segment.of(values).copy_(segment.of_tensor(source))
        if difference or dtype != plan.dtype:
            exact, decoded = _bits(weight), _bits(_read(plan, i, values, root))
            (wrong,) = torch.where(decoded != exact)
            if len(wrong):
                corrections.append(Correction(slot.name, wrong, exact[wrong]))
    return Tokens(values, plan, tuple(corrections))


def unpack(tokens: Tokens, root: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Copies weights from the places of a plan into new tensors, in the order of the layout.

    Raises:
        InputError: the tokens hold differences, and the root is not given or does not fit.
    """
    values = tokens.values.contiguous()
    weights = {slot.name: _read(tokens.plan, i, values, root) for i, slot in enumerate(tokens.plan.layout.slots)}
    for correction in tokens.corrections:
        _bits(weights[correction.name])[correction.index] = correction.bits
    return {slot.name: slot.turn(weights[slot.name]).contiguous() for slot in tokens.plan.layout.slots}


def _bits(weight: Tensor) -> Tensor:
    """Returns a view of a contiguous tensor as a row of integers."""
    return weight.view(-1).view(_INTEGERS[weight.dtype.itemsize])


def _read(plan: Plan, i: int, values: Tensor, root: Mapping[str, Tensor] | None) -> Tensor:
    """Decodes one tensor, up to rounding."""
    weight = torch.empty(plan.layout.slots[i].shape, dtype=plan.dtype, device=values.device)
    for segment in plan.segments[i]:
        segment.of_tensor(weight).copy_(segment.of(values))
    if plan.differences[i]:
        weight = weight + _counterpart(plan, i, root)
    return weight.to(plan.dtypes[i])


def _counterpart(plan: Plan, i: int, root: Mapping[str, Tensor] | None) -> Tensor:
    slot = plan.layout.slots[i]
    if root is None or slot.name not in root or tuple(slot.turn(root[slot.name]).shape) != slot.shape:
        raise InputError(
            f"the tokens hold the difference of {slot.name!r} to a root, which is not given or lacks it; "
            "pass root=<state dict of the model this one was fine-tuned from>"
        )
    return slot.turn(root[slot.name].detach()).contiguous().to(plan.dtype)
