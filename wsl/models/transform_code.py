"""A transform code of weight tokens: the numbers that vary most are the latents, a network corrects them and fills in the others.

A token in a frame where few numbers carry most (`wsl.tokenizers.fisher_basis`) is best cut, not squeezed: with m the mask of what
is kept,

    latents = m (x + e(x)),    x' = latents + (1 - m) d(latents)

e and d are transformers over the tokens of a model that begin as zero, so training begins at the plain code and can only mend it.
What is kept is chosen once, before training, by the energy of train checkpoints: as many numbers
per checkpoint as its weights over `compression_ratio`, spread unevenly, as reverse water-filling has it: a head keeps nearly all,
a large matrix a few corners.
"""

from collections.abc import Iterable, Sequence

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wsl.data.token_statistics import TokenStatistics
from wsl.models.autoencoder import Autoencoder, check_sizes
from wsl.models.blocks import Block, PositionEmbedding, RoleLinear
from wsl.tokenizers.plan import Plan
from zoo_gen.errors import InputError


class Correction(nn.Module):
    """A transformer from tokens to tokens of the same width that begins as zero.

    Args:
        token_width: numbers per token.
        width, heads, depth, mlp_ratio: of the transformer.
        blocks, roles: largest block index and role id, plus one.
    """

    def __init__(self, token_width: int, width: int, *, heads: int, depth: int, mlp_ratio: float, blocks: int, roles: int):
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


class TransformCode(Autoencoder):
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
        check_sizes(positive, depths=(encoder_depth, decoder_depth), mlp_ratio=mlp_ratio)
        self.compression_ratio, self.longest = compression_ratio, longest
        self.blocks, self.roles, self.tokens = blocks, roles, tokens

        def correction(depth: int) -> Correction:
            embedded = {"blocks": blocks, "roles": roles}
            return Correction(token_width, width, heads=heads, depth=depth, mlp_ratio=mlp_ratio, **embedded)

        self.encoder, self.decoder = correction(encoder_depth), correction(decoder_depth)
        self.register_buffer("energy", torch.zeros(blocks, roles, tokens, token_width - 1))
        self.register_buffer("levels", torch.zeros(longest + 1))

    def initialize(self, statistics: TokenStatistics) -> None:
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
        """Latents of each token."""
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


def levels_of(
    energy: Float[Tensor, "blocks roles tokens D"], plans: Iterable[Plan], *, compression_ratio: float, longest: int
) -> Float[Tensor, " longest+1"]:
    """Returns the energy above which numbers are kept, for each number of tokens of a checkpoint.

    With a fixed number of latents, squared error is least where the numbers of the largest energy are kept. A level is the lowest
    at which no plan of so many tokens keeps more numbers, the log-scales of its groups among them, than its weights over
    `compression_ratio`. Checkpoints that none of the plans is of have the highest of these levels.
    Raises `InputError` where not even the log-scales fit.
    """
    found: dict[int, float] = {}
    for plan in plans:
        block, role, index = plan.positions.unbind(-1)
        budget = int(plan.n_weights / compression_ratio) - len(plan.groups)
        if budget < 1:
            raise InputError(
                f"model.compression_ratio {compression_ratio} leaves nothing of {plan.n_weights} weights; choose a smaller one"
            )
        energies = energy[block, role, index].flatten().sort(descending=True).values  # padding of one plan may be another's weight
        level = float(energies[budget]) if budget < len(energies) else 0.0
        found[plan.n_tokens] = max(level, found.get(plan.n_tokens, 0.0))
    levels = torch.full((longest + 1,), max(found.values()))
    for tokens, level in found.items():
        levels[tokens] = level
    return levels
