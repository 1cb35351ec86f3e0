"""The arithmetic between weights and tokens, and the bits that make it exact.

Copies are exact. Differences are not: in float32, root + (child - root) is off by a rounding error for a few percent
of the weights. So coding decodes what it wrote, with the arithmetic of decoding (one multiplication and one addition,
which IEEE 754 defines to the bit), and stores the bits of every weight that came out otherwise, and of every NaN.

All is done in pieces that stay in the processor's cache: subtraction, addition and comparison in one pass. Blocks of memory come from NumPy, which asks the system for
huge pages: otherwise touching fresh memory takes longer than the copy.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from wsl.tokenizers.plan import Plan, Segment
from wsl.tokenizers.tokens import Correction, Tokens
from zoo_gen.errors import InputError

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_PIECE = 1 << 16
_FEW = 1 << 14
"""Answers that are searched one by one: to pack them would take longer."""
_ALIGNMENT = 64
_LOWEST = np.array([0, *((byte & -byte).bit_length() - 1 for byte in range(1, 256))], dtype=np.uint8)
"""Place of the lowest bit that is set in a byte."""


def bits(weight: Tensor) -> Int[Tensor, " n"]:
    """Returns a view of a contiguous tensor as a row of integers."""
    return weight.view(-1).view(_INTEGERS[weight.dtype.itemsize])


class Coding(NamedTuple):
    """The arithmetic of one tensor: `coded = (weight - root) / scale` and back, on flat pieces, in one type.

    `scale` is a power of two, None for one; `root` is flat, None for zero. Arrays are all of one library, which have these
    operations by the same names: NumPy's, whose calls take a third of the time, or PyTorch's for the types that NumPy lacks.
    """

    library: Any
    dtype: torch.dtype
    root: Any
    scale: float | None

    @classmethod
    def of(cls, dtype: torch.dtype, weight: Tensor, root: Tensor | None) -> "Coding":
        """Returns the arithmetic in a type of a tensor of the type of `weight`, without a scale."""
        tensors = [weight] if root is None else [weight, root]
        usual = dtype in (torch.float32, torch.float64) and all(t.dtype == dtype and t.device.type == "cpu" for t in tensors)
        coding = cls(np if usual else torch, dtype, None, None)
        return coding if root is None else coding._replace(root=coding.array(root))

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
        """Writes the coded entries `where` of a flat array."""
        source = self._typed(weight[where])
        if self.root is not None:
            source = self.library.subtract(source, self._typed(self.root[where]), out=out)
        if self.scale is not None:
            self.library.multiply(source, 1 / self.scale, out=out)
        elif self.root is None:
            out[:] = source

    def restore(self, coded: Any, where: slice, out: Any) -> None:
        """Writes the entries `where` of the tensor, of the coding's type; `out` may be `coded`."""
        if self.scale is not None:
            coded = self.library.multiply(coded, self.scale, out=out)
        if self.root is not None:
            self.library.add(coded, self._typed(self.root[where]), out=out)
        elif self.scale is None and coded is not out:
            out[:] = coded

    def _typed(self, array: Any) -> Any:
        return array if self.library is np else array.to(self.dtype)


def pack(plan: Plan, weights: Mapping[str, Tensor], root: Mapping[str, Tensor] | None) -> Tokens:
    """Codes weights into the places of a plan; `root` is read where the plan has differences."""
    device = next(iter(weights.values())).device
    values = _empty(plan.n_tokens * plan.width, plan.dtype, device).view(plan.n_tokens, plan.width)
    for start, stop in plan.blank:
        values.view(-1)[start:stop] = 0
    corrections = []
    scratch = _empty(
        _PIECE + max((s.n_weights for parts in plan.segments for s in parts if not s.flat), default=0), plan.dtype, device
    )
    for i, slot in plan.tensors:
        weight = slot.turn(weights[slot.name].detach()).contiguous()
        coding = Coding.of(plan.dtype, weight, _counterpart(plan, i, root))
        if i in plan.scales:
            exponent = _exponent(weight.view(-1), coding)
            plan.segments[plan.scales[i]][0].of(values).fill_(exponent)
            coding = coding._replace(scale=2.0**exponent)
        if coding.copies and weight.dtype == plan.dtype:
            for segment in plan.segments[i]:
                _copy(segment.of(values), segment.of_tensor(weight))
        else:
            with np.errstate(all="ignore"):
                wrong = np.concatenate([_code(segment, weight, coding, values, scratch) for segment in plan.segments[i]])
            if len(wrong):
                places = torch.from_numpy(wrong.astype(np.int32 if weight.numel() < 2**31 else np.int64)).to(device)
                corrections.append(Correction(slot.name, places, bits(weight).index_select(0, places)))
    return Tokens(values, plan, tuple(corrections))


def unpack(tokens: Tokens, root: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Decodes tensors, in the order of the layout, into one new block of memory.

    Raises:
        InputError: the tokens hold differences, and the root is not given or does not fit.
    """
    plan, values = tokens.plan, _plain(tokens)
    numbers = [i for i, _ in plan.tensors]
    weights = _carved(plan, numbers, _empty(_size(plan, numbers, _ALIGNMENT), torch.uint8, values.device), _ALIGNMENT)
    _decode(tokens, values, root, weights)
    return {slot.name: slot.turn(weights[i].view(slot.shape)).contiguous() for i, slot in plan.tensors}


def unpack_in_place(tokens: Tokens, root: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Decodes tensors, in the order of the layout, over the values of the tokens, which are lost.

    Region by region of the plan: what lies in it is decoded into a block of memory of its size, and copied back over it.
    Raises as `unpack`.
    """
    plan, values = tokens.plan, _plain(tokens)
    for i, _ in plan.tensors:
        _counterpart(plan, i, root)  # refuses before anything is lost
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
            coding = Coding.of(plan.dtype, weight, _counterpart(plan, i, root))
            if i in plan.scales:
                coding = coding._replace(scale=_power(plan.segments[plan.scales[i]][0].of(values).item(), plan.dtype))
            with np.errstate(all="ignore"):
                for segment in plan.segments[i]:
                    _restore(segment, values, coding, weight)
        if correction is not None:
            bits(weight)[slice(None) if correction.index is None else correction.index] = correction.bits


def _code(segment: Segment, weight: Tensor, coding: Coding, values: Tensor, scratch: Tensor) -> Int[np.ndarray, " E"]:
    """Codes one part of a tensor, and returns places of the tensor that decoding misses, in no order."""
    length, few = segment.n_weights, segment.n_weights <= _FEW
    exact = coding.array(weight.view(-1)[segment.offset : segment.offset + length])
    back, rest = coding.array(scratch[:_PIECE]), scratch[_PIECE:]
    coded = coding.array(values.view(-1)[segment.start : segment.start + length] if segment.flat else rest[:length])
    coding, wrong = coding.part(segment), []
    for where in _pieces(length):
        source = coded[where]
        decoded = back[: len(source)]
        coding.code(exact, where, source)
        coding.restore(source, where, decoded)
        differs = _differing(decoded, exact[where])
        if not math.isfinite(coding.library.dot(source, source)):  # whose bits an operation on two NaNs returns is not defined
            differs |= np.asarray(coding.library.isnan(exact[where]))
        wrong.append(differs if few else np.packbits(differs, bitorder="little"))
    if not segment.flat:
        _copy(segment.of(values), rest.as_strided(segment.shape, segment.steps, rest.storage_offset()))
    return segment.offset + (np.flatnonzero(wrong[0]) if few else _set_bits(np.concatenate(wrong)))


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
    scratch = torch.empty(_PIECE, dtype=coding.dtype, device=values.device)
    for where in _pieces(len(target)):
        piece = scratch[: len(target[where])]
        coding.restore(source[where], where, piece)
        out[where] = piece


def _pieces(length: int) -> Iterator[slice]:
    return (slice(start, min(start + _PIECE, length)) for start in range(0, length, _PIECE))


def _copy(target: Tensor, source: Tensor) -> None:
    """Copies between views of one shape, the target's memory in order: transposing so is several times as fast."""
    if target.ndim == 2 and target.stride(1) != 1:
        target, source = target.T, source.T
    target.copy_(source)


def _exponent(weight: Tensor, coding: Coding) -> int:
    """Returns the binary logarithm of the root mean square of what is coded, its finite entries alone; 0 if that is 0."""
    total, count = 0.0, 0
    flat = coding.array(weight)
    with np.errstate(all="ignore"):
        for where in _pieces(len(weight)):
            piece = torch.empty_like(weight[where], dtype=coding.dtype)
            coding.code(flat, where, coding.array(piece))
            finite = piece.isfinite()
            total += piece.double().where(finite, 0).square().sum().item()
            count += int(finite.sum())
    limit = _limit(coding.dtype)
    return round(max(-limit, min(limit, math.log2(total / count) / 2))) if total > 0 else 0


def _limit(dtype: torch.dtype) -> int:
    """Returns the largest e for which 2^e and 2^-e are normal numbers of a type."""
    return -round(math.log2(torch.finfo(dtype).tiny))


def _power(exponent: float, dtype: torch.dtype) -> float:
    """Returns a power of two, exact for whole exponents; a network's are neither whole nor within any limits."""
    return 2.0 ** max(-_limit(dtype), min(_limit(dtype), exponent))


def _differing(decoded: Any, exact: Any) -> Bool[np.ndarray, " n"]:
    """Returns where the bits of two flat arrays of one library differ."""
    if isinstance(exact, Tensor):
        return (bits(decoded.to(exact.dtype)) != bits(exact)).cpu().numpy()
    integers = np.int32 if exact.itemsize == 4 else np.int64
    return decoded.view(integers) != exact.view(integers)


def _set_bits(packed: UInt8[np.ndarray, " n"]) -> Int[np.ndarray, " E"]:
    """Returns the places of the bits that are set, in no order.

    Hardly any byte has more than one. NumPy searches few among many one by one, at a misprediction each; bytes are fewer.
    """
    found = np.flatnonzero(packed != 0)
    bytes_ = packed[found]
    lowest = (found << 3) + _LOWEST[bytes_]
    bytes_ &= bytes_ - 1
    more = np.flatnonzero(bytes_ != 0)
    rest = np.flatnonzero(np.unpackbits(bytes_[more], bitorder="little"))
    return np.concatenate([lowest, (found[more[rest >> 3]] << 3) + (rest & 7)])


def _plain(tokens: Tokens) -> Tensor:
    """Returns values of the plan's type, in order."""
    return tokens.values.to(tokens.plan.dtype).contiguous()


def _empty(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.empty(size, dtype=dtype, device=device)
    return torch.from_numpy(np.empty(size * dtype.itemsize, dtype=np.uint8)).view(dtype)


def _size(plan: Plan, slots: Iterable[int], alignment: int) -> int:
    """Returns the bytes of tensors side by side, each a multiple of the alignment."""
    return sum(-(-_bytes(plan, i) // alignment) * alignment for i in slots)


def _carved(plan: Plan, slots: Iterable[int], block: Tensor, alignment: int) -> dict[int, Tensor]:
    """Returns an empty flat tensor for each slot, one after the other in a block of bytes."""
    found, start = {}, 0
    for i in slots:
        found[i] = block[start : start + _bytes(plan, i)].view(plan.dtypes[i])
        start += _size(plan, [i], alignment)
    return found


def _bytes(plan: Plan, i: int) -> int:
    return math.prod(plan.layout.slots[i].shape) * plan.dtypes[i].itemsize


def _counterpart(plan: Plan, i: int, root: Mapping[str, Tensor] | None) -> Tensor | None:
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
