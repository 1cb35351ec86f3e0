"""The arithmetic between weights and tokens, and the bits that make it exact.

Copies are exact. Differences are not: in float32, root + (child - root) is off by a rounding error for a few percent
of the weights. So coding decodes what it wrote, with the arithmetic of decoding (one multiplication and one addition,
which IEEE 754 defines to the bit), and stores the bits of every weight that came out otherwise, and of every NaN.

All is done in pieces that stay in the processor's cache: subtraction, addition and comparison in one pass. Blocks of
memory come from NumPy, which asks the system for huge pages: otherwise touching fresh memory takes longer than the copy.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from wsl.tokenizers.bits import bits, differing, isnan, set_bits
from wsl.tokenizers.plan import Plan, Segment
from wsl.tokenizers.scale import exponent, limit, squares
from wsl.tokenizers.tokens import Correction, Tokens
from zoo_gen.errors import InputError

_PIECE = 1 << 16
_FEW = 1 << 14
"""Answers that are searched one by one: to pack them would take longer."""
_ALIGNMENT = 64


class Coding(NamedTuple):
    """The arithmetic of one tensor: `coded = (weight - root) / scale` and back, on flat arrays, in one type.

    `scale` is a power of two, None for one; `root` is flat, None for zero. All arrays are of one library, which both name these
    operations alike: NumPy, whose calls take a third of the time, or PyTorch for other devices and for types that are mixed or
    that NumPy lacks.
    """

    library: Any
    dtype: torch.dtype
    root: Any
    scale: float | None

    @classmethod
    def of(cls, plan: Plan, i: int, root: Mapping[str, Tensor] | None, device: torch.device) -> "Coding":
        """Returns the arithmetic of a tensor of the plan on a device, its scale aside."""
        library = np if plan.uniform and device.type == "cpu" else torch
        origin = counterpart(plan, i, root)
        if origin is not None and library is np:
            origin = origin.to(plan.dtype).numpy()
        return cls(library, plan.dtype, origin, None)

    @property
    def copies(self) -> bool:
        """Whether coding is but copying, or a change of type."""
        return self.root is None and self.scale is None

    def array(self, tensor: Tensor) -> Any:
        """Returns a tensor as an array of the library."""
        return tensor.numpy() if self.library is np else tensor

    def part(self, segment: Segment) -> "Coding":
        """Returns the arithmetic of one part of the tensor."""
        root = None if self.root is None else self.root[segment.offset : segment.offset + segment.n_weights]
        return Coding(self.library, self.dtype, root, self.scale)

    def code(self, weight: Any, where: slice, out: Any) -> None:
        """Writes the coded entries of a piece, which is at `where` in the array."""
        source = self._typed(weight)
        if self.root is not None:
            source = self.library.subtract(source, self._typed(self.root[where]), out=out)
        if self.scale is not None:
            self.library.multiply(source, 1 / self.scale, out=out)
        elif self.root is None:
            out[:] = source

    def restore(self, coded: Any, where: slice, out: Any) -> None:
        """Writes the entries of such a piece, of the coding's type; `out` may be `coded`."""
        if self.scale is not None:
            coded = self.library.multiply(coded, self.scale, out=out)
        if self.root is not None:
            self.library.add(coded, self._typed(self.root[where]), out=out)
        elif self.scale is None and coded is not out:
            out[:] = coded

    def _typed(self, array: Any) -> Any:
        return array if self.library is np else array.to(self.dtype)


@np.errstate(all="ignore")  # weights may be anything
def pack(plan: Plan, weights: Mapping[str, Tensor], root: Mapping[str, Tensor] | None, *, exact: bool = True) -> Tokens:
    """Codes weights into the places of a plan; `root` is read where the plan has differences.

    Tokens that are not `exact` have no corrections: their caller knows the bits.
    """
    device = next(iter(weights.values())).device
    values = _empty(plan.n_tokens * plan.width, plan.dtype, device).view(plan.n_tokens, plan.width)
    for start, stop in plan.blank:
        values.view(-1)[start:stop] = 0
    flat, corrections = values.view(-1), []
    scratch = _empty(2 * _PIECE, plan.dtype, device)
    rest = _empty(max((s.n_weights for parts in plan.segments for s in parts if not s.flat), default=1), plan.dtype, device)
    for i, slot in plan.tensors:
        weight = slot.turn(weights[slot.name].detach()).contiguous().view(-1)
        coding = Coding.of(plan, i, root, device)
        if i in plan.scales:
            scale = _exponent(weight, coding)
            plan.segments[plan.scales[i]][0].of(values).fill_(scale)
            coding = coding._replace(scale=2.0**scale)
        if coding.copies and weight.dtype == plan.dtype:
            for segment in plan.segments[i]:
                _copy(segment.of(values), segment.of_tensor(weight))
            continue
        array, coded = coding.array(weight), coding.array(flat)
        wrong = []
        for segment in plan.segments[i]:
            part = slice(segment.offset, segment.offset + segment.n_weights)
            out = coded[segment.start : segment.start + segment.n_weights] if segment.flat else coding.array(rest)
            if exact:
                wrong.append(segment.offset + _code(array[part], coding.part(segment), out, coding.array(scratch)))
            else:
                _code_alone(array[part], coding.part(segment), out)
            if not segment.flat:
                _copy(segment.of(values), rest.as_strided(segment.shape, segment.steps, 0))
        if any(map(len, wrong)):
            small = np.int32 if weight.numel() < 2**31 else np.int64
            places = torch.from_numpy(np.concatenate(wrong, dtype=small, casting="same_kind")).to(device)
            corrections.append(Correction(slot.name, places, bits(weight).index_select(0, places)))
    return Tokens(values, plan, tuple(corrections))


@np.errstate(all="ignore")  # weights may be anything
def unpack(tokens: Tokens, root: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Decodes tensors, in the order of the layout, into one new block of memory.

    Raises:
        InputError: the tokens hold differences, and the root is not given or does not fit.
    """
    plan = tokens.plan
    values = tokens.values.detach().to(plan.dtype).contiguous()
    numbers = [i for i, _ in plan.tensors]
    weights = carved(plan, numbers, values.device)
    _decode(tokens, values, root, weights)
    return {slot.name: slot.turn(weights[i].view(slot.shape)).contiguous() for i, slot in plan.tensors}


@np.errstate(all="ignore")  # weights may be anything
def unpack_in_place(tokens: Tokens, root: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Decodes tensors, in the order of the layout, over the values of the tokens, which are lost.

    Region by region of the plan: what lies in it is decoded into a block of memory of its size, and copied back over it.
    Raises as `unpack`.
    """
    plan = tokens.plan
    values = tokens.values.detach().to(plan.dtype).contiguous()
    for i, _ in plan.tensors:
        counterpart(plan, i, root)  # refuses before anything is lost
    block = _empty(max(_size(plan, region.slots, 1) for region in plan.regions), torch.uint8, values.device)
    found: dict[int, Tensor] = {}
    for region in plan.regions:
        weights = _carved(plan, region.slots, block, 1)
        _decode(tokens, values, root, weights)
        for i, own in _carved(plan, region.slots, values.view(-1)[region.start :].view(torch.uint8), 1).items():
            slot = plan.layout.slots[i]
            turned = slot.turn(weights[i].view(slot.shape))
            found[i] = own.view(turned.shape).copy_(turned)
    return {slot.name: found[i] for i, slot in plan.tensors}


def _decode(tokens: Tokens, values: Tensor, root: Mapping[str, Tensor] | None, weights: Mapping[int, Tensor]) -> None:
    """Decodes tensors, given flat by their number in the layout."""
    plan = tokens.plan
    corrections = {correction.name: correction for correction in tokens.corrections}
    for i, weight in weights.items():
        correction = corrections.get(plan.layout.slots[i].name)
        if correction is None or correction.index is not None:
            coding = Coding.of(plan, i, root, values.device)
            if i in plan.scales:
                scale, most = plan.segments[plan.scales[i]][0].of(values).item(), limit(plan.dtype)
                coding = coding._replace(scale=2.0 ** max(-most, min(most, scale)))  # a network's is not within any limits
            for segment in plan.segments[i]:
                _restore(segment, values, coding, weight)
        if correction is not None:
            if correction.index is None:
                bits(weight).copy_(correction.bits)
            else:
                bits(weight).scatter_(0, correction.index.long(), correction.bits)


def _code(exact: Any, coding: Coding, coded: Any, scratch: Any) -> Int[np.ndarray, " E"]:
    """Writes the coded entries of one part of a tensor, and returns the places that decoding misses, in no order."""
    few, wrong = len(exact) <= _FEW, []
    for where in _pieces(len(exact)):
        truth, out = exact[where], coded[where]
        decoded = scratch[: len(truth)]
        coding.code(truth, where, out)
        coding.restore(out, where, decoded)
        differs = differing(decoded, truth)
        if not math.isfinite(coding.library.dot(out, out)):  # whose bits an operation on two NaNs returns is not defined
            differs |= isnan(truth)
        wrong.append(differs if few else np.packbits(differs, bitorder="little"))
    return wrong[0].nonzero()[0] if few else set_bits(np.concatenate(wrong))


def _code_alone(weight: Any, coding: Coding, coded: Any) -> None:
    """Writes the coded entries of one part of a tensor."""
    for where in _pieces(len(weight)):
        coding.code(weight[where], where, coded[where])


def _restore(segment: Segment, values: Tensor, coding: Coding, weight: Tensor) -> None:
    """Decodes one part of a flat tensor, up to rounding."""
    target = weight[segment.offset : segment.offset + segment.n_weights]
    same = weight.dtype == coding.dtype
    if segment.flat:
        coded = values.view(-1)[segment.start : segment.start + segment.n_weights]
    else:
        coded = target if same else torch.empty_like(target, dtype=coding.dtype)
        _copy(coded.as_strided(segment.shape, segment.steps, coded.storage_offset()), segment.of(values))
    if coding.copies and coded is target:
        return
    coding, source, out = coding.part(segment), coding.array(coded), coding.array(target)
    if same:
        coding.restore(source, slice(None), out)
        return
    scratch = torch.empty(2 * _PIECE, dtype=coding.dtype, device=values.device)
    for where in _pieces(len(target)):
        piece = scratch[: len(target[where])]
        coding.restore(source[where], where, piece)
        out[where] = piece


def _pieces(length: int) -> Iterator[slice]:
    """Yields slices of about `_PIECE` entries, as long as each other and multiples of 8, but for the last."""
    step = -(-length // (8 * max(1, round(length / _PIECE)))) * 8
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _copy(target: Tensor, source: Tensor) -> None:
    """Copies between views of one shape, the target's memory in order: transposing so is several times as fast."""
    if target.ndim == 2 and target.stride(1) != 1:
        target, source = target.T, source.T
    target.copy_(source)


def _exponent(weight: Tensor, coding: Coding) -> int:
    """Returns the binary logarithm of the root mean square of what is coded, its finite entries alone."""
    total, count = 0.0, 0
    flat = coding.array(weight)
    for where in _pieces(len(weight)):
        piece = torch.empty_like(weight[where], dtype=coding.dtype)
        coding.code(flat[where], where, coding.array(piece))
        more, many = squares(piece)
        total, count = total + more, count + many
    return exponent(total, count, coding.dtype)


def _empty(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.empty(size, dtype=dtype, device=device)
    return torch.from_numpy(np.empty(size * dtype.itemsize, dtype=np.uint8)).view(dtype)


def _size(plan: Plan, slots: Iterable[int], alignment: int) -> int:
    """Returns the bytes of tensors side by side, each a multiple of the alignment."""
    return sum(-(-plan.nbytes[i] // alignment) * alignment for i in slots)


def carved(plan: Plan, slots: list[int], device: torch.device) -> dict[int, Tensor]:
    """Returns an empty flat tensor for each slot, side by side in a new block of memory."""
    return _carved(plan, slots, _empty(_size(plan, slots, _ALIGNMENT), torch.uint8, device), _ALIGNMENT)


def _carved(plan: Plan, slots: Iterable[int], block: Tensor, alignment: int) -> dict[int, Tensor]:
    """Returns an empty flat tensor for each slot, one after the other in a block of bytes."""
    found, start = {}, 0
    for i in slots:
        size = plan.nbytes[i]
        found[i] = block[start : start + size].view(plan.dtypes[i])
        start += -(-size // alignment) * alignment
    return found


def counterpart(plan: Plan, i: int, root: Mapping[str, Tensor] | None) -> Tensor | None:
    """Returns the flat tensor of the root that the plan codes a tensor's difference to."""
    if not plan.differences[i]:
        return None
    slot = plan.layout.slots[i]
    if root is None or slot.name not in root or tuple(slot.turn(root[slot.name]).shape) != slot.shape:
        raise InputError(
            f"the tokens hold the difference of {slot.name!r} to a root, which is not given or lacks it; "
            "pass root=<state dict of the model this one was fine-tuned from>"
        )
    return slot.turn(root[slot.name].detach()).contiguous().view(-1)
