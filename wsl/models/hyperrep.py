"""The hyper-representation: a transformer autoencoder over windows of weight tokens.

Each standardised token (D numbers: a direction of unit scale and the log-scale of its group) is projected to the
width M, joined by an embedding of its position (block, role, index), mixed with the other tokens of its window by
pre-norm transformer blocks, and squeezed through Z < D numbers; the decoder mirrors this from the latents and the
positions alone:

    latents = bottleneck(encoder(W_in x + p)),    x' = W_out decoder(W_up latents + p)

Sequential autoencoders of weights: Schürholt et al., "Towards Scalable and Versatile Weight Space Learning", arXiv
2406.09997.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from wsl.models.blocks import Block, PositionEmbedding, RoleLinear
from wsl.models.initialization import TrainStatistics
from zoo_gen.errors import InputError

FAINT = 1e-4
"""Singular values below this are as good as none; latents are of the order of 1."""

FAINT_POSITIONS = 0.1
"""How large positions are at a linear start, beside those of a start at random."""


class HyperRep(nn.Module):
    """Autoencoder of weight tokens, whose latents are the representation of a checkpoint.

    Args:
        token_width: numbers per standardised token (D).
        latent: numbers per token that the decoder gets (Z).
        width: width M of the transformer.
        heads: attention heads.
        encoder_depth, decoder_depth: transformer blocks on either side.
        mlp_ratio: hidden width of their MLPs, over M.
        blocks: largest block index a token may have, plus one.
        roles: largest role id a token may have, plus one.
        initialization: first weights: `linear`, a linear code of each role (`initialize_linear`), or `random`.

    Raises `InputError` for sizes of which no model can be built.
    """

    reads: ClassVar[Literal["tokens"]] = "tokens"

    def __init__(
        self,
        *,
        token_width: int,
        latent: int,
        width: int,
        heads: int,
        encoder_depth: int,
        decoder_depth: int,
        mlp_ratio: float,
        blocks: int,
        roles: int,
        initialization: str,
    ):
        super().__init__()
        sizes = {"latent": latent, "width": width, "heads": heads, "blocks": blocks, "roles": roles}
        for name, size in sizes.items():
            if size < 1:
                raise InputError(f"model.{name} must be at least 1, not {size}")
        if min(encoder_depth, decoder_depth) < 0 or not int(width * mlp_ratio) >= 1:
            raise InputError(
                "model.encoder_depth and model.decoder_depth must be at least 0, and width * mlp_ratio at least 1, not "
                f"{encoder_depth}, {decoder_depth} and {width} * {mlp_ratio}"
            )
        if width % heads:
            raise InputError(f"model.width must be a multiple of model.heads: {width} is none of {heads}")
        if initialization not in ("linear", "random"):
            raise InputError(f"model.initialization must be linear or random, not {initialization}")
        self.latent, self.blocks, self.roles, self.initialization = latent, blocks, roles, initialization
        self.project = RoleLinear(token_width, width, roles=roles)
        self.encoder_positions = PositionEmbedding(width, blocks=blocks, roles=roles)
        self.encoder = nn.ModuleList(Block(width, heads=heads, mlp_ratio=mlp_ratio) for _ in range(encoder_depth))
        self.bottleneck = nn.Linear(width, latent)
        self.expand = nn.Linear(latent, width)
        self.decoder_positions = PositionEmbedding(width, blocks=blocks, roles=roles)
        self.decoder = nn.ModuleList(Block(width, heads=heads, mlp_ratio=mlp_ratio) for _ in range(decoder_depth))
        self.unproject = RoleLinear(width, token_width, roles=roles)

    def initialize(self, statistics: TrainStatistics) -> None:
        """Makes the model the best linear code of the train checkpoints, unless its initialization is random."""
        if self.initialization == "linear":
            self.initialize_linear(statistics.second_moments(roles=self.roles))

    @torch.no_grad()
    def initialize_linear(self, moments: Float[Tensor, "R D D"]) -> None:
        """Makes the untrained model a linear code of each role (`wsl.training.initialization`), which training goes on from.

        One number of a latent is the log-scale, the others are the leading components of the direction: the log-scale is one entry
        of many, and no leading component, but an error in it is one in all weights of its group.
        The first Z numbers of the stream hold the components, the others the random projections and positions of a model that
        begins at random; nothing is read of those until training finds a use for them. Blocks begin as the identity.
        """
        vectors = torch.zeros_like(moments)
        vectors[:, -1, 0] = 1
        vectors[:, :-1, 1:] = torch.linalg.eigh(moments[:, :-1, :-1].double()).eigenvectors.flip(-1).float()
        vectors = vectors[..., : min(self.latent, self.bottleneck.in_features)]
        z = vectors.shape[-1]
        for positions in (self.encoder_positions, self.decoder_positions):
            for weight in (positions.block.weight, positions.role.weight, positions.index.weight.mT):
                weight.mul_(FAINT_POSITIONS)[:, :z] = 0
        self.project.weight[..., :z] = vectors
        self.unproject.weight.zero_()
        self.unproject.weight[:, :z] = vectors.mT
        for linear in (self.bottleneck, self.expand):
            linear.weight.zero_().fill_diagonal_(1)
            nn.init.zeros_(linear.bias)

    def encode(
        self, values: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T D"], positions: Int[Tensor, "B T P"]
    ) -> Float[Tensor, "B T Z"]:
        """Latents of each token. `mask` is False at padding within tokens; padded tokens have negative positions."""
        real = positions[..., 0] >= 0
        x = self.project(values.masked_fill(~mask, 0), positions[..., 1]) + self.encoder_positions(positions)
        for block in self.encoder:
            x = block(x, real)
        return self.bottleneck(x)

    def decode(self, latents: Float[Tensor, "B T Z"], positions: Int[Tensor, "B T P"]) -> Float[Tensor, "B T D"]:
        """Tokens from latents and the positions they are for."""
        real = positions[..., 0] >= 0
        x = self.expand(latents) + self.decoder_positions(positions)
        for block in self.decoder:
            x = block(x, real)
        return self.unproject(x, positions[..., 1])

    def forward(
        self, values: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T D"], positions: Int[Tensor, "B T P"]
    ) -> Float[Tensor, "B T D"]:
        """Reconstruction: `decode(encode(...))`."""
        return self.decode(self.encode(values, mask, positions), positions)

    def numbers(self, positions: Int[Tensor, "T P"]) -> int:
        """How many numbers the decoder gets for a checkpoint whose tokens have these positions."""
        return len(positions) * self.latent

    def embed(
        self, latents: Float[Tensor, "B T Z"], positions: Int[Tensor, "T P"], groups: Sequence[tuple[int, int]]
    ) -> Float[Tensor, "B F"]:
        """One vector per checkpoint: moments and spectrum of its latents, group by group."""
        return pooled(latents, positions, groups)


def pooled(
    latents: Float[Tensor, "B T Z"], positions: Int[Tensor, "T P"], groups: Sequence[tuple[int, int]]
) -> Float[Tensor, "B F"]:
    """One vector per checkpoint: moments and spectrum of its latents, group by group.

    For each (block, role) of `groups`: the mean, the standard deviation and the log singular values of the group's latents
    (over the root of their number), none of which the order of neurons or heads can change; zeros where a checkpoint has no
    such group. F = groups x 3Z. Non-finite latents give NaN.
    """
    block, role = positions[:, 0], positions[:, 1]
    return torch.cat([_moments(latents[:, (block == b) & (role == r)]) for b, r in groups], dim=1)


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
