"""What autoencoders of tokens have in common: their inputs, what they begin at, and one vector per checkpoint."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from wsl.data.token_statistics import TokenStatistics
from zoo_gen.errors import InputError

FAINT = 1e-4
"""Sizes and singular values below this are as good as none; latents are of the order of 1."""

OCTAVES = (0, 1, 2, 4, 8, 16, 32, 64)
"""First places of tokens, the largest first, whose sizes are pooled together."""

SPECTRUM = 16
"""Singular values of a group that an embedding has."""


class Autoencoder(nn.Module):
    """A model of windows of tokens (`wsl.data.windows.Batch`) with `encode` and `decode`.

    `encode(values, mask, positions, side, total)` returns latents of tokens, `decode(latents, positions, side, total)` the tokens,
    and `numbers(positions)` how many numbers the decoder gets. `mask` is False at padding within tokens; padded tokens have
    negative positions.
    """

    reads: ClassVar[Literal["tokens"]] = "tokens"

    encode: Any
    decode: Any

    def initialize(self, statistics: TokenStatistics) -> None:
        """Takes what first weights depend on from train checkpoints, once, before training. Draws no random numbers."""

    def forward(
        self,
        values: Float[Tensor, "B T D+1"],
        mask: Bool[Tensor, "B T D+1"],
        positions: Int[Tensor, "B T P"],
        side: Float[Tensor, "B T CD"],
        total: Int[Tensor, " B"],
    ) -> Float[Tensor, "B T D+1"]:
        """Reconstruction: `decode(encode(...))`."""
        return self.decode(self.encode(values, mask, positions, side, total), positions, side, total)

    def embed(
        self, latents: Float[Tensor, "B T Z"], positions: Int[Tensor, "T P"], groups: Sequence[tuple[int, int]]
    ) -> Float[Tensor, "B F"]:
        """One vector per checkpoint: sizes and spectrum of its latents, group by group.

        The last number of a latent is the log-scale of its group, which the others are multiplied by. For each (block, role) of
        `groups`: the log-scale, the mean, the log root mean squares of each number and of tokens, the largest first, by octaves,
        and the largest log singular values (over the root of the tokens' number), none of which the order of tokens can change.
        F = groups x (Z + 1 + 8 + 16); zeros where a checkpoint has no such group. Non-finite latents give NaN.
        """
        block, role = positions[:, 0], positions[:, 1]
        return torch.cat([_sizes(latents[:, (block == b) & (role == r)]) for b, r in groups], dim=1)


def check_sizes(positive: Mapping[str, int], *, depths: tuple[int, int], mlp_ratio: float) -> None:
    """Raises `InputError` for sizes of which no transformers can be built; `positive` has their width and heads."""
    for name, size in positive.items():
        if size < 1:
            raise InputError(f"model.{name} must be at least 1, not {size}")
    width, heads = positive["width"], positive["heads"]
    if min(depths) < 0 or not int(width * mlp_ratio) >= 1:
        raise InputError(
            "model.encoder_depth and model.decoder_depth must be at least 0, and width * mlp_ratio at least 1, not "
            f"{depths[0]}, {depths[1]} and {width} * {mlp_ratio}"
        )
    if width % heads:
        raise InputError(f"model.width must be a multiple of model.heads: {width} is none of {heads}")


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
