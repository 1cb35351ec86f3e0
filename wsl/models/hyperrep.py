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
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wsl.data.token_statistics import TokenStatistics
from wsl.models.autoencoder import Autoencoder, check_sizes
from wsl.models.blocks import Block, PositionEmbedding, RoleLinear
from zoo_gen.errors import InputError

FAINT_POSITIONS = 0.1
"""How large positions are at a linear start, beside those of a start at random."""


class HyperRep(Autoencoder):
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
        check_sizes(sizes, depths=(encoder_depth, decoder_depth), mlp_ratio=mlp_ratio)
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

    def initialize(self, statistics: TokenStatistics) -> None:
        """Makes the model the best linear code of the train checkpoints, unless its initialization is random."""
        if self.initialization == "linear":
            self.initialize_linear(statistics.second_moments(roles=self.roles))

    @torch.no_grad()
    def initialize_linear(self, moments: Float[Tensor, "R D D"]) -> None:
        """Makes the untrained model a linear code of each role (`wsl.data.token_statistics`), which training goes on from.

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
        """Latents of each token."""
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

    def numbers(self, positions: Int[Tensor, "T P"]) -> int:
        """How many numbers the decoder gets for a checkpoint whose tokens have these positions."""
        return len(positions) * self.latent
