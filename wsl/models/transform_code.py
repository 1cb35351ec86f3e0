"""A transform code of weight tokens: the numbers that vary most are the latents, a network corrects them and fills in the others.

A token in a frame where few numbers carry most (`wsl.tokenizers.fisher_basis`) is best cut, not squeezed: with m the mask of what
is kept,

    latents = m (x + e(x)),    x' = latents + (1 - m) d(latents)

e and d are transformers over the tokens of a model that begin as zero, so training begins at the plain code and can only mend it.
What is kept is chosen once, before training, by the energy of train checkpoints (`wsl.models.bit_allocation`): as many numbers
per checkpoint as its weights over `compression_ratio`, spread unevenly, as reverse water-filling has it: a head keeps nearly all,
a large matrix a few corners.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wsl.models.bit_allocation import levels_of
from wsl.models.blocks import Block, PositionEmbedding, RoleLinear
from wsl.models.hyperrep import pooled
from wsl.models.initialization import TrainStatistics
from wsl.tokenizers.plan import Plan
from zoo_gen.errors import InputError


class Correction(nn.Module):
    """A transformer from tokens to tokens of the same width that begins as zero.

    Args:
        token_width: numbers per token.
        width, heads, depth, mlp_ratio: of the transformer.
        blocks, roles: largest block index and role id, plus one.
    """

    def __init__(self, *, token_width: int, width: int, heads: int, depth: int, mlp_ratio: float, blocks: int, roles: int):
        super().__init__()
        self.project = RoleLinear(token_width, width, roles=roles)
        self.positions = PositionEmbedding(width, blocks=blocks, roles=roles)
        self.blocks = nn.ModuleList(Block(width, heads=heads, mlp_ratio=mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.unproject = RoleLinear(width, token_width, roles=roles)
        nn.init.zeros_(self.unproject.weight)

    def forward(self, x: Float[Tensor, "B T D"], positions: Int[Tensor, "B T P"]) -> Float[Tensor, "B T D"]:
        """Maps the tokens of each model; large entries count by their logarithm."""
        real = positions[..., 0] >= 0
        y = self.project(x.asinh(), positions[..., 1]) + self.positions(positions)
        for block in self.blocks:
            y = block(y, real)
        return self.unproject(self.norm(y), positions[..., 1])


class TransformCode(nn.Module):
    """Autoencoder of the tokens of whole models; latents are tokens with zeros where nothing is kept.

    Args:
        token_width: numbers per standardised token (D, the log-scale of its group among them).
        compression_ratio: weights of a checkpoint per number that the decoder gets, at least.
        width, heads, mlp_ratio: of both transformers.
        encoder_depth, decoder_depth: their blocks.
        blocks: largest block index a token may have, plus one.
        roles: largest role id a token may have, plus one.
        tokens: most tokens of one (block, role).
        longest: most tokens of a checkpoint.

    Raises `InputError` for sizes of which no model can be built.
    """

    reads: ClassVar[Literal["tokens"]] = "tokens"

    energy: Tensor
    levels: Tensor

    def __init__(
        self,
        *,
        token_width: int,
        compression_ratio: float,
        width: int,
        heads: int,
        encoder_depth: int,
        decoder_depth: int,
        mlp_ratio: float,
        blocks: int,
        roles: int,
        tokens: int,
        longest: int,
    ):
        super().__init__()
        if not compression_ratio >= 1:
            raise InputError(f"model.compression_ratio must be at least 1, not {compression_ratio}")
        positive = {"width": width, "heads": heads, "blocks": blocks, "roles": roles, "tokens": tokens, "longest": longest}
        for name, size in positive.items():
            if size < 1:
                raise InputError(f"model.{name} must be at least 1, not {size}")
        if min(encoder_depth, decoder_depth) < 0 or width % heads or not int(width * mlp_ratio) >= 1:
            raise InputError(
                "model.encoder_depth and model.decoder_depth must be at least 0, width a multiple of heads and width * mlp_ratio "
                f"at least 1, not {encoder_depth}, {decoder_depth}, {width} and {heads}, {width} * {mlp_ratio}"
            )
        self.compression_ratio, self.blocks, self.roles, self.tokens, self.longest = (
            compression_ratio,
            blocks,
            roles,
            tokens,
            longest,
        )
        sizes = {"token_width": token_width, "width": width, "heads": heads, "mlp_ratio": mlp_ratio}
        self.encoder = Correction(**sizes, depth=encoder_depth, blocks=blocks, roles=roles)
        self.decoder = Correction(**sizes, depth=decoder_depth, blocks=blocks, roles=roles)
        self.register_buffer("energy", torch.zeros(blocks, roles, tokens, token_width - 1))
        self.register_buffer("levels", torch.zeros(longest + 1))

    def initialize(self, statistics: TrainStatistics) -> None:
        """Chooses what is kept by the energy of the train checkpoints."""
        self.allocate(*statistics.energy(blocks=self.blocks, roles=self.roles, tokens=self.tokens))

    def allocate(self, energy: Float[Tensor, "blocks roles tokens D-1"], plans: Sequence[Plan]) -> None:
        """Chooses what is kept, so that no checkpoint of these plans has more numbers than its weights over `compression_ratio`."""
        if (most := max(plan.n_tokens for plan in plans)) > self.longest:
            raise InputError(f"the longest checkpoint has {most} tokens; set model.longest to at least as many")
        self.energy.copy_(energy)
        self.levels.copy_(levels_of(energy, plans, compression_ratio=self.compression_ratio, longest=self.longest))

    def numbers(self, positions: Int[Tensor, "T P"]) -> int:
        """How many numbers the decoder gets for a checkpoint whose tokens have these positions."""
        return int(self._mask(positions[None]).sum())

    def encode(
        self, values: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T D"], positions: Int[Tensor, "B T P"]
    ) -> Float[Tensor, "B T D"]:
        """Latents of each token. `mask` is False at padding within tokens; padded tokens have negative positions."""
        values = values.masked_fill(~mask, 0)
        kept = self._mask(positions)
        steered = values[..., :-1] + self.encoder(values, positions)[..., :-1]
        return torch.cat([steered, values[..., -1:]], dim=-1).masked_fill(~kept, 0)

    def decode(self, latents: Float[Tensor, "B T D"], positions: Int[Tensor, "B T P"]) -> Float[Tensor, "B T D"]:
        """Tokens from what is kept and the positions they are for."""
        kept = self._mask(positions)
        latents = latents.masked_fill(~kept, 0)  # whatever stands where nothing is kept, the decoder does not get it
        index = positions[..., 2].clamp(min=0)
        first = torch.arange(index.shape[1], device=index.device) - index
        if (first < 0).any():
            raise InputError("model TransformCode codes whole models: set window to at least their tokens")
        scale = latents[..., -1].gather(1, first)  # which the first token of a group has for all of them
        latents = torch.cat([latents[..., :-1], rearrange(scale, "b t -> b t 1")], dim=-1)
        filled = latents[..., :-1] + self.decoder(latents, positions)[..., :-1].masked_fill(kept[..., :-1], 0)
        return torch.cat([filled, latents[..., -1:]], dim=-1)

    def forward(
        self, values: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T D"], positions: Int[Tensor, "B T P"]
    ) -> Float[Tensor, "B T D"]:
        """Reconstruction: `decode(encode(...))`."""
        return self.decode(self.encode(values, mask, positions), positions)

    def embed(
        self, latents: Float[Tensor, "B T D"], positions: Int[Tensor, "T P"], groups: Sequence[tuple[int, int]]
    ) -> Float[Tensor, "B F"]:
        """One vector per checkpoint: moments and spectrum of its latents, group by group (`wsl.models.hyperrep.pooled`)."""
        return pooled(latents, positions, groups)

    def _mask(self, positions: Int[Tensor, "B T P"]) -> Bool[Tensor, "B T D"]:
        """What is kept of each token; nothing of padded ones."""
        block, role, index = positions.unbind(-1)
        real = block >= 0
        if (index >= self.tokens).any() or (positions.shape[1] > self.longest and real[:, self.longest :].any()):
            raise InputError(
                f"a checkpoint has more than {self.tokens} tokens in a group or {self.longest} in all; set model.tokens and "
                "model.longest to more"
            )
        level = rearrange(self.levels[real.sum(1)], "b -> b 1 1")
        above = self.energy[block.clamp(min=0), role.clamp(min=0), index.clamp(min=0)] > level
        return torch.cat([above, rearrange(index == 0, "b t -> b t 1")], dim=-1) & rearrange(real, "b t -> b t 1")
