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
"""Singular values below this are as good as none; latents are of the order of 1."""


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
        """One vector per checkpoint: moments and spectrum of its latents, group by group.

        For each (block, role) of `groups`: the mean, the standard deviation and the log singular values of the group's latents
        (over the root of their number), none of which the order of neurons or heads can change; zeros where a checkpoint has no
        such group. F = groups x 3Z. Non-finite latents give NaN.
        """
        block, role = positions[:, 0], positions[:, 1]
        return torch.cat([_moments(latents[:, (block == b) & (role == r)]) for b, r in groups], dim=1)


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


def _moments(latents: Float[Tensor, "B t Z"]) -> Float[Tensor, "B 3*Z"]:
    """Mean, standard deviation and log singular values of the latents of a group."""
    count, width = latents.shape[1:]
    if not count:
        return latents.new_zeros(len(latents), 3 * width)
    finite = rearrange(latents.isfinite().all(-1).all(-1), "b -> b 1")
    spectrum = torch.linalg.svdvals(latents.where(finite[..., None], 0) / count**0.5).clamp(min=FAINT).log()
    spectrum = functional.pad(spectrum, (0, width - spectrum.shape[1]), value=math.log(FAINT))
    moments = torch.cat([latents.mean(1), latents.std(1, correction=0), spectrum], dim=1)
    return moments.where(finite, torch.nan)
