"""The arithmetic of `wsl.tokenizers.coding` for small checkpoints: one operation for all tensors rather than one for each.

Tokens, corrections and weights are those of `wsl.tokenizers.coding`, to the bit. A small tensor takes as long as the call of an
operation, and a checkpoint has many of them; a large one would leave the processor's cache between two operations.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wsl.tokenizers.bits import bits
from wsl.tokenizers.coding import carved, counterpart, pack, unpack
from wsl.tokenizers.plan import Plan
from wsl.tokenizers.scale import exponent, limit, squares
from wsl.tokenizers.tokens import Correction, Tokens

SMALL = 2**19
"""Weights of a checkpoint that are coded at once, at most."""


def pack_any(plan: Plan, weights: Mapping[str, Tensor], root: Mapping[str, Tensor] | None, *, exact: bool) -> Tokens:
    """Codes weights as `wsl.tokenizers.coding.pack` does, by whichever way is quicker."""
    if not _is_small(plan, next(iter(weights.values()))):
        return pack(plan, weights, root, exact=exact)
    rows = [slot.turn(weights[slot.name].detach()).contiguous() for _, slot in plan.ordered]
    truth = torch.cat([bits(row) for row in rows])  # PyTorch moves other bits of NaNs of half precision than it is given
    flat = truth.view(plan.dtype)
    reference = _reference(plan, root)
    changed = len(reference)
    coded = flat
    if changed:
        coded = flat.clone()
        coded[:changed] -= reference
    values = torch.zeros(plan.n_tokens * plan.width, dtype=plan.dtype)
    scales = None
    if plan.scales:
        exponents = [exponent(*squares(piece), plan.dtype) for piece in coded.split(plan.sizes)]
        values[plan.places_of_scales] = torch.tensor(exponents, dtype=plan.dtype)
        scales = _each(plan, [2.0**one for one in exponents], plan.dtype)
        coded = coded * _each(plan, [2.0**-one for one in exponents], plan.dtype)
    bits(values).scatter_(0, plan.places, bits(coded))
    tokens = Tokens(values.view(plan.n_tokens, plan.width), plan, ())
    checked = len(flat) if plan.scales else changed  # the rest is copied
    if not exact or not checked:
        return tokens
    decoded = coded.clone() if scales is None else coded * scales
    decoded[:changed] += reference
    wrong = (bits(decoded) != truth) | flat.isnan()  # whose bits an operation on two NaNs returns is not defined
    return Tokens(tokens.values, plan, _corrections(plan, truth, wrong[:checked].nonzero().view(-1)))


def unpack_any(tokens: Tokens, root: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Decodes tensors as `wsl.tokenizers.coding.unpack` does, by whichever way is quicker. Raises as it does."""
    plan = tokens.plan
    if not _is_small(plan, tokens.values):
        return unpack(tokens, root)
    weights = carved(plan, [i for i, _ in plan.tensors], tokens.values.device)
    corrections = {correction.name: correction for correction in tokens.corrections}
    if any(slot.name not in corrections or corrections[slot.name].index is not None for _, slot in plan.tensors):
        for (i, _), piece in zip(plan.ordered, _decoded(tokens, root).split(plan.sizes), strict=True):
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
    return plan.n_weights <= SMALL and len(set(plan.dtypes)) == 1 and where.device.type == "cpu"


def _decoded(tokens: Tokens, root: Mapping[str, Tensor] | None) -> Float[Tensor, " N"]:
    """Returns all weights, up to rounding."""
    plan = tokens.plan
    values = tokens.values.detach().to(plan.dtype).reshape(-1)
    flat = bits(values)[plan.places].view(plan.dtype)
    if plan.scales:
        most = limit(plan.dtype)
        scales = [2.0 ** max(-most, min(most, one)) for one in values[plan.places_of_scales].tolist()]
        wide = torch.promote_types(plan.dtype, torch.float32)  # as PyTorch multiplies by a number
        flat = (flat.to(wide) * _each(plan, scales, wide)).to(plan.dtype)
    reference = _reference(plan, root)
    flat[: len(reference)] += reference
    return flat


def _reference(plan: Plan, root: Mapping[str, Tensor] | None) -> Float[Tensor, " M"]:
    """Returns the weights of the root that others are differences to."""
    found = [counterpart(plan, i, root) for i, _ in plan.ordered]
    some = [one.to(plan.dtype) for one in found if one is not None]
    return torch.cat(some) if some else torch.empty(0, dtype=plan.dtype)


def _each(plan: Plan, numbers: list[float], dtype: torch.dtype) -> Float[Tensor, " N"]:
    """Returns the number of each tensor for each of its weights."""
    return torch.tensor(numbers, dtype=dtype).repeat_interleave(torch.tensor(plan.sizes), output_size=sum(plan.sizes))


def _corrections(plan: Plan, exact: Int[Tensor, " N"], wrong: Int[Tensor, " E"]) -> tuple[Correction, ...]:
    """Returns the bits at some places, tensor by tensor."""
    found, start = {}, 0
    ends = torch.tensor(plan.sizes).cumsum(0)
    counts = torch.searchsorted(wrong, ends).diff(prepend=torch.zeros(1, dtype=torch.int64)).tolist()
    for (i, slot), size, places in zip(plan.ordered, plan.sizes, wrong.split(counts), strict=True):
        if len(places):
            found[i] = Correction(slot.name, (places - start).int(), exact[places])
        start += size
    return tuple(found[i] for i in sorted(found))
