"""The hyper-representation: a transformer autoencoder over windows of weight tokens.

Each standardised token (D numbers: a direction of unit scale and the log-scale of its group) is projected to the
width M, joined by an embedding of its position (block, role, index), mixed with the other tokens of its window by
pre-norm transformer blocks, and squeezed through Z < D numbers; the decoder mirrors this from the latents and the
positions alone:

    latents = bottleneck(encoder(W_in x + p)),    x' = W_out decoder(W_up latents + p)

Sequential autoencoders of weights: Schürholt et al., "Towards Scalable and Versatile Weight Space Learning", arXiv
2406.09997.
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from wsl.models.blocks import Block, PositionEmbedding, RoleLinear


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
    """

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
    ):
        super().__init__()
        self.latent, self.blocks, self.roles = latent, blocks, roles
        self.project = RoleLinear(token_width, width, roles=roles)
        self.encoder_positions = PositionEmbedding(width, blocks=blocks, roles=roles)
        self.encoder = nn.ModuleList(Block(width, heads=heads, mlp_ratio=mlp_ratio) for _ in range(encoder_depth))
        self.bottleneck = nn.Linear(width, latent)
        self.expand = nn.Linear(latent, width)
        self.decoder_positions = PositionEmbedding(width, blocks=blocks, roles=roles)
        self.decoder = nn.ModuleList(Block(width, heads=heads, mlp_ratio=mlp_ratio) for _ in range(decoder_depth))
        self.unproject = RoleLinear(width, token_width, roles=roles)

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

    def embed(self, latents: Float[Tensor, "B T Z"], positions: Int[Tensor, "B T P"]) -> Float[Tensor, "B F"]:
        """One vector per checkpoint: mean and standard deviation of its latents over the tokens of each role.

        F = roles x 2Z; roles that a checkpoint does not have are zeros.
        """
        member = functional.one_hot(positions[..., 1], self.roles).to(latents.dtype)
        count = rearrange(member.sum(1), "b r -> b r 1").clamp(min=1)
        mean = torch.einsum("btr,btz->brz", member, latents) / count
        centred = latents - torch.einsum("btr,brz->btz", member, mean)
        deviation = (torch.einsum("btr,btz->brz", member, centred.square()) / count).sqrt()
        return rearrange([mean, deviation], "n b r z -> b (r n z)")
