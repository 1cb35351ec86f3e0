"""The arithmetic of `wsl.tokenizers.coding` for small checkpoints: one operation for all tensors rather than one for each.

Tokens, corrections and weights are those of `wsl.tokenizers.coding`, to the bit. A small tensor takes as long as the call of an
operation, and a checkpoint has many of them; a large one would leave the processor's cache between two operations.
"""

import functools
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wsl.layout.slots import Slot
from wsl.tokenizers.bits import bits
from wsl.tokenizers.coding import carved, counterpart, pack, unpack
from wsl.tokenizers.plan import Plan
from wsl.tokenizers.scale import exponent, limit, squares
from wsl.tokenizers.tokens import Correction, Tokens


class Order(NamedTuple):
    """The tensors of a plan, those whose differences are coded first, and where their weights and scales lie in the flat buffer."""

    tensors: tuple[tuple[int, Slot], ...]
    sizes: list[int]
    places: Int[Tensor, " N"]
    scales: Int[Tensor, " tensors"]


@functools.lru_cache(maxsize=16)
def _order(plan: Plan) -> Order:
    tensors = tuple(sorted(plan.tensors, key=lambda tensor: not plan.differences[tensor[0]]))
    sizes = [math.prod(slot.shape) for _, slot in tensors]
    buffer = torch.arange(plan.n_tokens * plan.width).view(plan.n_tokens, plan.width)
    places = torch.empty(sum(sizes), dtype=torch.int64)
    for (i, _), tensor in zip(tensors, places.split(sizes), strict=True):
        for segment in plan.segments[i]:
            segment.of_tensor(tensor).copy_(segment.of(buffer))
    scales = [plan.segments[plan.scales[i]][0].start for i, _ in tensors] if plan.scales else []
    return Order(tensors, sizes, places, torch.tensor(scales, dtype=torch.int64))


def pack_any(plan: Plan, weights: Mapping[str, Tensor], root: Mapping[str, Tensor] | None, *, exact: bool) -> Tokens:
    """Codes weights as `wsl.tokenizers.coding.pack` does, by whichever way is quicker."""
    if not _is_small(plan, next(iter(weights.values()))):
        return pack(plan, weights, root, exact=exact)
    order = _order(plan)
    rows = [slot.turn(weights[slot.name].detach()).contiguous() for _, slot in order.tensors]
    truth = torch.cat([bits(row) for row in rows])  # PyTorch moves other bits of NaNs of half precision than it is given
    flat = truth.view(plan.dtype)
    reference = _reference(plan, order, root)
    changed = len(reference)
    coded = flat
    if changed:
        coded = flat.clone()
        coded[:changed] -= reference
    values = torch.zeros(plan.n_tokens * plan.width, dtype=plan.dtype)
    scales = None
    if plan.scales:
        exponents = [exponent(*squares(piece), plan.dtype) for piece in coded.split(order.sizes)]
        values[order.scales] = torch.tensor(exponents, dtype=plan.dtype)
        scales = _each(order.sizes, [2.0**one for one in exponents], plan.dtype)
        coded = coded * _each(order.sizes, [2.0**-one for one in exponents], plan.dtype)
    bits(values).scatter_(0, order.places, bits(coded))
    tokens = Tokens(values.view(plan.n_tokens, plan.width), plan, ())
    checked = len(flat) if plan.scales else changed  # the rest is copied
    if not exact or not checked:
        return tokens
    decoded = coded.clone() if scales is None else coded * scales
    decoded[:changed] += reference
    wrong = (bits(decoded) != truth) | flat.isnan()  # whose bits an operation on two NaNs returns is not defined
    return Tokens(tokens.values, plan, _corrections(order, truth, wrong[:checked]))


def unpack_any(tokens: Tokens, root: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Decodes tensors as `wsl.tokenizers.coding.unpack` does, by whichever way is quicker. Raises as it does."""
    plan = tokens.plan
    if not _is_small(plan, tokens.values):
        return unpack(tokens, root)
    order = _order(plan)
    weights = carved(plan, [i for i, _ in plan.tensors], tokens.values.device)
    corrections = {correction.name: correction for correction in tokens.corrections}
    if any(slot.name not in corrections or corrections[slot.name].index is not None for _, slot in plan.tensors):
        for (i, _), piece in zip(order.tensors, _decoded(tokens, order, root).split(order.sizes), strict=True):
            weights[i].copy_(piece)
    for i, slot in plan.tensors:
        if (correction := corrections.get(slot.name)) is None:
            continue
        if correction.index is None:
            bits(weights[i]).copy_(correction.bits)
        else:
            bits(weights[i]).scatter_(0, correction.index.long(), correction.bits)
    return {slot.name: slot.turn(weights[i].view(slot.shape)).contiguous() for i, slot in plan.tensors}


def _is_small(plan: Plan, where: Tensor) -> bool:
    return plan.small and len(set(plan.dtypes)) == 1 and where.device.type == "cpu"


def _decoded(tokens: Tokens, order: Order, root: Mapping[str, Tensor] | None) -> Float[Tensor, " N"]:
    """Returns all weights, up to rounding."""
    plan = tokens.plan
    values = tokens.values.detach().to(plan.dtype).reshape(-1)
    flat = bits(values)[order.places].view(plan.dtype)
    if plan.scales:
        most = limit(plan.dtype)
        scales = [2.0 ** max(-most, min(most, one)) for one in values[order.scales].tolist()]
        wide = torch.promote_types(plan.dtype, torch.float32)  # as PyTorch multiplies by a number
        flat = (flat.to(wide) * _each(order.sizes, scales, wide)).to(plan.dtype)
    reference = _reference(plan, order, root)
    flat[: len(reference)] += reference
    return flat


def _reference(plan: Plan, order: Order, root: Mapping[str, Tensor] | None) -> Float[Tensor, " M"]:
    """Returns the weights of the root that others are differences to."""
    found = [counterpart(plan, i, root) for i, _ in order.tensors]
    some = [one.to(plan.dtype) for one in found if one is not None]
    return torch.cat(some) if some else torch.empty(0, dtype=plan.dtype)


def _each(sizes: list[int], numbers: list[float], dtype: torch.dtype) -> Float[Tensor, " N"]:
    """Returns the number of each tensor for each of its weights."""
    return torch.tensor(numbers, dtype=dtype).repeat_interleave(torch.tensor(sizes), output_size=sum(sizes))


def _corrections(order: Order, exact: Int[Tensor, " N"], wrong: Bool[Tensor, " M"]) -> tuple[Correction, ...]:
    """Returns the bits at some places, tensor by tensor."""
    found = {}
    (places,) = wrong.numpy().nonzero()
    right = exact.numpy()[places]
    ends = np.cumsum(order.sizes)
    bounds = [0, *np.searchsorted(places, ends).tolist()]
    for (i, slot), size, end, (first, last) in zip(order.tensors, order.sizes, ends, pairwise(bounds), strict=True):
        if last > first:
            index = (places[first:last] - (end - size)).astype(np.int32)
            found[i] = Correction(slot.name, torch.from_numpy(index), torch.from_numpy(right[first:last]))
    return tuple(found[i] for i in sorted(found))
