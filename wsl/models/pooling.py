"""Pooling of latents of tokens: one vector per checkpoint, which no order of tokens and no sign of an axis can change."""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

FAINT = 1e-4
"""Sizes and singular values below this are as good as none; latents are of the order of 1."""

OCTAVES = (0, 1, 2, 4, 8, 16, 32, 64)
"""First places of tokens, the largest first, whose sizes are pooled together."""

SPECTRUM = 16
"""Singular values of a group that an embedding has."""


def pooled(
    latents: Float[Tensor, "B T Z"], positions: Int[Tensor, "T P"], groups: Sequence[tuple[int, int]]
) -> Float[Tensor, "B F"]:
    """Returns sizes and spectrum of latents, group by group.

    The last number of a latent is the log-scale of its group, which the others are multiplied by. For each (block, role) of
    `groups`: the log-scale, the mean, the log root mean squares of each number and of tokens, the largest first, by octaves,
    and the largest log singular values (over the root of the tokens' number).
    F = groups x (Z + 1 + 8 + 16); zeros where a checkpoint has no such group. Non-finite latents give NaN.
    """
    block, role = positions[:, 0], positions[:, 1]
    return torch.cat([_sizes(latents[:, (block == b) & (role == r)]) for b, r in groups], dim=1)


def _sizes(latents: Float[Tensor, "B t Z"]) -> Float[Tensor, "B F"]:
    """Log-scale, mean, sizes of numbers and of tokens, and log singular values of the latents of a group."""
    tokens, width = latents.shape[1:]
    if not tokens:
        return latents.new_zeros(len(latents), width + 1 + len(OCTAVES) + SPECTRUM)
    finite = rearrange(latents.isfinite().all(-1).all(-1), "b -> b 1")
    scale = latents[:, 0, -1:].where(finite, 0)
    values = latents[..., :-1].where(finite[..., None], 0) * scale.exp()[..., None]
    squares, ends = values.square(), (*OCTAVES[1:], tokens)
    largest = squares.mean(2).sort(dim=1, descending=True).values
    by_octave = [largest[:, start:end] for start, end in zip(OCTAVES, ends, strict=True)]
    places = torch.stack([some.mean(1) if some.shape[1] else some.new_zeros(len(some)) for some in by_octave], dim=1)
    # one by one: bits of a stack depend on where in memory each of its matrices begins
    spectrum = torch.stack([torch.linalg.svdvals(one) for one in values / tokens**0.5]).clamp(min=FAINT).log()[:, :SPECTRUM]
    spectrum = functional.pad(spectrum, (0, SPECTRUM - spectrum.shape[1]), value=math.log(FAINT))
    sizes = torch.cat([squares.mean(1), places], dim=1).clamp(min=FAINT**2).log() / 2
    return torch.cat([scale, values.mean((1, 2))[:, None], sizes, spectrum], dim=1).where(finite, torch.nan)
