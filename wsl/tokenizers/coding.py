"""The arithmetic between weights and tokens, and the bits that make it exact.

Copies are exact. Differences are not: in float32, root + (child - root) is off by a rounding error for a few percent
of the weights. So coding decodes what it wrote, with the arithmetic of decoding (one multiplication and one addition,
which IEEE 754 defines to the bit), and stores the bits of every weight that came out otherwise, and of every NaN.

All is done in pieces that stay in the processor's cache. Blocks of memory come from NumPy, which asks the system for
huge pages: otherwise touching fresh memory takes longer than the copy.
"""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from wsl.tokenizers.plan import Plan, Segment
from wsl.tokenizers.tokens import Correction, Tokens
from zoo_gen.errors import InputError

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_PIECE = 1 << 16
_ALIGNMENT = 64


def bits(weight: Tensor) -> Int[Tensor, " n"]:
    """Returns a view of a contiguous tensor as a row of integers."""
    return weight.view(-1).view(_INTEGERS[weight.dtype.itemsize])


class Coding(NamedTuple):
    """The arithmetic of one tensor: `coded = (weight - root) / scale` and back, on flat pieces, in one type.

    `scale` is a power of two, None for one; `root` is flat, None for zero.
    """

    dtype: torch.dtype
    root: Tensor | None
    scale: float | None

    def part(self, segment: Segment) -> "Coding":
        """Returns the arithmetic of one part of the tensor."""
        root = None if self.root is None else self.root[segment.offset : segment.offset + segment.n_weights]
        return self._replace(root=root)

    def code(self, weight: Tensor, where: slice, out: Tensor) -> None:
        """Writes the coded entries `where` of a flat tensor."""
        source = weight[where].to(self.dtype)
        if self.root is not None:
            source = torch.sub(source, self.root[where].to(self.dtype), out=out)
        if self.scale is not None:
            torch.mul(source, 1 / self.scale, out=out)
        elif self.root is None:
            out.copy_(source)

    def restore(self, coded: Tensor, where: slice, out: Tensor) -> None:
        """Writes the entries `where` of the tensor, of the coding's type; `out` may be `coded`."""
        if self.scale is not None:
            coded = torch.mul(coded, self.scale, out=out)
        if self.root is not None:
            torch.add(coded, self.root[where].to(self.dtype), out=out)
        elif self.scale is None and coded is not out:
            out.copy_(coded)


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
        coding = Coding(plan.dtype, _counterpart(plan, i, root), None)
        if i in plan.scales:
            exponent = _exponent(weight.view(-1), coding)
            plan.segments[plan.scales[i]][0].of(values).fill_(exponent)
            coding = coding._replace(scale=2.0**exponent)
        if coding.root is None and coding.scale is None and weight.dtype == plan.dtype:
            for segment in plan.segments[i]:
                _copy(segment.of(values), segment.of_tensor(weight))
        else:
            wrong = [pair for segment in plan.segments[i] for pair in _code(segment, weight, coding, values, scratch)]
            if wrong:
                corrections.append(Correction(slot.name, *map(torch.cat, zip(*wrong, strict=True))))
    return Tokens(values, plan, tuple(corrections))


def unpack(tokens: Tokens, root: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Decodes tensors, in the order of the layout, into one new block of memory.

    Raises:
        InputError: the tokens hold differences, and the root is not given or does not fit.
    """
    plan, values = tokens.plan, tokens.values.to(tokens.plan.dtype).contiguous()
    weights = dict(zip((slot.name for _, slot in plan.tensors), _block(plan, values.device), strict=True))
    corrected = {correction.name for correction in tokens.corrections if correction.index is None}
    for i, slot in plan.tensors:
        if slot.name in corrected:
            continue
        coding = Coding(plan.dtype, _counterpart(plan, i, root), None)
        if i in plan.scales:
            coding = coding._replace(scale=_power(plan.segments[plan.scales[i]][0].of(values).item(), plan.dtype))
        for segment in plan.segments[i]:
            _restore(segment, values, coding, weights[slot.name])
    for correction in tokens.corrections:
        bits(weights[correction.name])[slice(None) if correction.index is None else correction.index] = correction.bits
    return {slot.name: slot.turn(weights[slot.name]).contiguous() for _, slot in plan.tensors}


def _code(
    segment: Segment, weight: Tensor, coding: Coding, values: Tensor, scratch: Tensor
) -> Iterator[tuple[Int[Tensor, " E"], Int[Tensor, " E"]]]:
    """Codes one part of a tensor, and yields places of the tensor that decoding misses, and their bits."""
    exact = weight.view(-1)[segment.offset : segment.offset + segment.n_weights]
    coding = coding.part(segment)
    decoded, rest = scratch.split([_PIECE, len(scratch) - _PIECE])
    coded = segment.of(values).view(-1) if segment.flat else rest[: segment.n_weights]
    for where in _pieces(len(exact)):
        source, back = coded[where], decoded[: where.stop - where.start]
        coding.code(exact, where, source)
        coding.restore(source, where, back)
        truth = bits(exact[where])
        wrong = _differing(bits(back.to(exact.dtype)), truth)
        if not math.isfinite(source.sum()):  # whose bits an operation on two NaNs returns is not defined
            wrong = torch.cat([wrong, exact[where].isnan().nonzero().squeeze(1)]).unique()
        if len(wrong):
            yield wrong + (segment.offset + where.start), truth[wrong]
    if not segment.flat:
        _copy(segment.of(values), coded.as_strided(segment.shape, segment.steps, coded.storage_offset()))


def _restore(segment: Segment, values: Tensor, coding: Coding, weight: Tensor) -> None:
    """Decodes one part of a tensor, up to rounding."""
    target = weight.view(-1)[segment.offset : segment.offset + segment.n_weights]
    same = weight.dtype == coding.dtype
    if segment.flat:
        coded = segment.of(values).view(-1)
    else:
        coded = target if same else torch.empty_like(target, dtype=coding.dtype)
        _copy(coded.as_strided(segment.shape, segment.steps, coded.storage_offset()), segment.of(values))
    coding = coding.part(segment)
    if same and coding.root is None and coding.scale is None:
        if segment.flat:
            target.copy_(coded)
        return
    scratch = torch.empty(0 if same else _PIECE, dtype=coding.dtype, device=values.device)
    for where in _pieces(len(target)):
        out = target[where] if same else scratch[: len(target[where])]
        coding.restore(coded[where], where, out)
        if not same:
            target[where] = out


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
    for where in _pieces(len(weight)):
        piece = torch.empty_like(weight[where], dtype=coding.dtype)
        coding.code(weight, where, piece)
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


def _differing(a: Int[Tensor, " n"], b: Int[Tensor, " n"]) -> Int[Tensor, " E"]:
    """Returns the places where two rows differ; NumPy finds them four times as fast."""
    if a.device.type != "cpu":
        return (a != b).nonzero().squeeze(1)
    return torch.from_numpy(np.flatnonzero(a.numpy() != b.numpy()))


def _empty(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.empty(size, dtype=dtype, device=device)
    return torch.from_numpy(np.empty(size * dtype.itemsize, dtype=np.uint8)).view(dtype)


def _block(plan: Plan, device: torch.device) -> Iterator[Tensor]:
    """Yields an empty tensor for each tensor of a plan, one after the other in one block."""
    sizes = [math.prod(slot.shape) * plan.dtypes[i].itemsize for i, slot in plan.tensors]
    starts = np.cumsum([0, *(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)])
    block = _empty(int(starts[-1]), torch.uint8, device)
    for (i, slot), start, size in zip(plan.tensors, starts.tolist(), sizes, strict=False):
        yield block[start : start + size].view(plan.dtypes[i]).view(slot.shape)


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
