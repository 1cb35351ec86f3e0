r"""The hyper-representation: a transformer autoencoder of weight tokens that begins at the best linear code.

In a frame where few numbers of a change carry most (`wsl.tokenizers.fisher_basis`) a token is best cut, not squeezed. With m the
mask of what is kept (`wsl.models.allocation`) and s what the decoder knows of a checkpoint beside its latents
(`wsl.data.side_information`),

.. math::
    \mathrm{latents} = m\,x, \qquad
    x' = \mathrm{latents} + (1 - m)\,(g\,\hat{x} + d(\mathrm{latents}, g\,\hat{x}, s))

The estimate :math:`\hat{x}` is a ridge regression in context: in each group of tokens, the kept numbers are regressed on the
channels of s, and the same coefficients give the others. d is a transformer that begins as zero, and the gains g of the roles begin
as zero: an untrained model is the linear code, to the bit. `initialize` fits the gains and the mask to train checkpoints, and
training goes on from there.

An axis of the basis has no sign of its own. So d reads and gives each number by the sign that a channel of s has at its place:
flipping an axis flips what it gives, and numbers of different roots can be compared.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from wsl.data.side_information import CHANNELS
from wsl.data.token_statistics import TokenStatistics
from wsl.data.windows import Batch
from wsl.models.allocation import Allocation
from wsl.models.blocks import PositionEmbedding, RoleLinear, identity_block
from wsl.models.pooling import pooled
from zoo_gen.errors import InputError

RIDGE = 1.0
"""Ridge of the regressions in context: as much evidence as one number that is kept."""

FAINT = 1e-12
"""Sums of squares of estimates below this are none."""


class Correction(nn.Module):
    """A transformer from tokens and their side information to tokens, which begins as zero.

    Args:
        inputs: numbers per token that are read.
        outputs: numbers per token (D).
        width, heads, depth, mlp_ratio: of the transformer.
        blocks, roles: largest block index and role id, plus one.

    Raises `InputError` for sizes of which no transformer can be built.
    """

    def __init__(self, inputs: int, outputs: int, *, width: int, heads: int, depth: int, mlp_ratio: float, blocks: int, roles: int):
        super().__init__()
        hidden = "width * mlp_ratio", width * mlp_ratio, 1
        for name, size, least in (("width", width, 1), ("heads", heads, 1), ("depth", depth, 0), hidden):
            if not size >= least:
                raise InputError(f"model.{name} must be at least {least}, not {size}")
        if width % heads:
            raise InputError(f"model.width must be a multiple of model.heads: {width} is none of {heads}")
        self.project = RoleLinear(inputs, width, roles=roles)
        self.positions = PositionEmbedding(width, blocks=blocks, roles=roles)
        self.blocks = nn.ModuleList(identity_block(width, heads=heads, mlp_ratio=mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.unproject = RoleLinear(width, outputs, roles=roles)
        nn.init.zeros_(self.unproject.weight)

    def forward(self, x: Float[Tensor, "B T I"], positions: Int[Tensor, "B T P"]) -> Float[Tensor, "B T D"]:
        """Maps the tokens of each window; large entries count by their logarithm."""
        real = rearrange(positions[..., 0] >= 0, "b t -> b 1 1 t")  # nobody attends to padded tokens
        y = self.project(x.asinh(), positions[..., 1]) + self.positions(positions)
        for block in self.blocks:
            y = block(y, attn_mask=real)
        return self.unproject(self.norm(y), positions[..., 1])


class HyperRep(nn.Module):
    """Autoencoder of windows of tokens (`wsl.data.windows.Batch`); latents are tokens with zeros where nothing is kept.

    Args:
        token_width: numbers per standardised token (D + 1, the log-scale of its group among them).
        compression_ratio: weights of a checkpoint per number that the decoder gets, at least.
        width, heads, depth, mlp_ratio: of the decoder's transformer.
        blocks: largest block index a token may have, plus one.
        roles: largest role id a token may have, plus one.
        places: tokens of one (block, role) that are allocated apart; of the second half, several together.

    Raises `InputError` for sizes of which no model can be built.
    """

    reads: ClassVar[Literal["tokens"]] = "tokens"
    embed = staticmethod(pooled)  # of latents, by groups

    def __init__(
        self,
        *,
        token_width: int,
        compression_ratio: float,
        width: int,
        heads: int,
        depth: int,
        mlp_ratio: float,
        blocks: int,
        roles: int,
        places: int,
    ):
        super().__init__()
        d, self.blocks, self.roles = token_width - 1, blocks, roles
        self.allocation = Allocation(compression_ratio=compression_ratio, width=d, blocks=blocks, roles=roles, places=places)
        self.gains = nn.Parameter(torch.zeros(roles))
        shape = {"width": width, "heads": heads, "depth": depth, "mlp_ratio": mlp_ratio}
        self.decoder = Correction((2 + len(CHANNELS)) * d + 1, d, **shape, blocks=blocks, roles=roles)

    def linear(self, statistics: TokenStatistics) -> None:
        """Chooses what is kept by the energies of the numbers themselves: with gains of zero, the linear code."""
        self.allocation.allocate(self.allocation.measured(statistics.energies()), statistics.plans)

    def initialize(self, statistics: TokenStatistics) -> None:
        """Chooses what is kept, and fits the gains, by train checkpoints.

        What is kept is chosen by the energies of the numbers themselves first, then by those of what the regressions leave of them.
        """
        self.linear(statistics)
        wholes = list(statistics.wholes())
        if any(batch.side.any() for _, batch in wholes):
            self._fit_gains([batch for _, batch in wholes])
            residuals = ((source, self._residual(batch)) for source, batch in wholes)
            self.allocation.allocate(self.allocation.measured(statistics.energies(residuals)), statistics.plans)
            self._fit_gains([batch for _, batch in wholes])

    @torch.no_grad()
    def _fit_gains(self, wholes: Sequence[Batch]) -> None:
        """Fits the gain of each role to what is not kept, by least squares, from 0 to 1."""
        products, squares = torch.zeros(self.roles), torch.zeros(self.roles)
        for batch in wholes:
            values, estimate, kept = self._estimated(batch)
            role = batch.positions[..., 1].flatten()
            products.index_add_(0, role, reduce((values * estimate).masked_fill(kept, 0), "b t d -> (b t)", "sum"))
            squares.index_add_(0, role, reduce(estimate.square().masked_fill(kept, 0), "b t d -> (b t)", "sum"))
        self.gains.copy_((products / squares.clamp(min=FAINT)).clamp(0, 1))

    @torch.no_grad()
    def _residual(self, batch: Batch) -> Float[Tensor, "B T D"]:
        """What the regressions leave of the numbers of whole checkpoints, of those that are kept, too."""
        values, estimate, _ = self._estimated(batch)
        return values - self.gains[batch.positions[..., 1]][..., None] * estimate

    def _estimated(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Returns directions, their estimates from what is kept of them, and what is kept."""
        values = batch.values.masked_fill(~batch.mask, 0)[..., :-1]
        kept = self.allocation(batch.positions, batch.total)
        channels = self._channels(batch.side)
        return values, self._estimate(values.masked_fill(~kept, 0), channels, kept, batch.positions), kept

    def numbers(self, positions: Int[Tensor, "T P"]) -> int:
        """How many numbers the decoder gets for a checkpoint of tokens at these positions: those kept, and a scale per group."""
        kept = self.allocation(positions[None], torch.tensor([len(positions)]))
        return int(kept.sum()) + len(positions[:, :2].unique(dim=0))

    def forward(
        self,
        values: Float[Tensor, "B T D+1"],
        mask: Bool[Tensor, "B T D+1"],
        positions: Int[Tensor, "B T P"],
        side: Float[Tensor, "B T CD"],
        total: Int[Tensor, " B"],
    ) -> Float[Tensor, "B T D+1"]:
        """Reconstruction of windows; `mask` is False at padding within tokens, and padded tokens have negative positions."""
        return self.decode(self.encode(values, mask, positions, total), positions, side, total)

    def encode(
        self,
        values: Float[Tensor, "B T D+1"],
        mask: Bool[Tensor, "B T D+1"],
        positions: Int[Tensor, "B T P"],
        total: Int[Tensor, " B"],
    ) -> Float[Tensor, "B T D+1"]:
        """Latents of each token: what is kept of it, and the log-scale of its group."""
        kept = functional.pad(self.allocation(positions, total), (0, 1), value=True)
        return values.masked_fill(~(mask & kept), 0)

    def decode(
        self,
        latents: Float[Tensor, "B T D+1"],
        positions: Int[Tensor, "B T P"],
        side: Float[Tensor, "B T CD"],
        total: Int[Tensor, " B"],
    ) -> Float[Tensor, "B T D+1"]:
        """Tokens from what is kept, the positions they are for, and what is known beside them.

        Nothing else reaches the decoder: the log-scale of a group is that of its first token in the window.
        """
        kept = self.allocation(positions, total)
        index = positions[..., 2].clamp(min=0)
        first = (torch.arange(index.shape[1], device=index.device) - index).clamp(min=0)
        given, scale = latents[..., :-1].masked_fill(~kept, 0), latents[..., -1:].gather(1, first[..., None])
        channels = self._channels(side)
        guess = self.gains[positions[..., 1].clamp(min=0)][..., None] * self._estimate(given, channels, kept, positions)
        way = torch.where(channels[:, :, 1] != 0, channels[:, :, 1], channels[:, :, 0])
        sign = torch.where(way < 0, -1.0, 1.0)
        signed = rearrange(sign[:, :, None] * channels, "b t c d -> b t (c d)")
        known = torch.cat([sign * given, sign * guess, scale, signed], dim=-1)
        filled = guess + sign * self.decoder(known, positions)
        return torch.cat([given + filled.masked_fill(kept, 0), scale], dim=-1)

    def _channels(self, side: Float[Tensor, "B T CD"]) -> Float[Tensor, "B T C D"]:
        """Side information by channel; zeros where there is none."""
        shape, width = side.shape[:2], self.allocation.energy.shape[-1]
        return side.view(*shape, -1, width) if side.shape[-1] else side.new_zeros(*shape, len(CHANNELS), width)

    def _estimate(
        self,
        given: Float[Tensor, "B T D"],
        channels: Float[Tensor, "B T C D"],
        kept: Bool[Tensor, "B T D"],
        positions: Int[Tensor, "B T P"],
    ) -> Float[Tensor, "B T D"]:
        """All numbers, by a ridge regression of those that are kept on the channels, group by group."""
        with torch.autocast(given.device.type, enabled=False):
            given, channels = given.float(), channels.float()
            each = self.blocks * self.roles + 1  # padded tokens are a group of their own
            own = torch.where(positions[..., 0] >= 0, positions[..., 0] * self.roles + positions[..., 1], each - 1)
            group, count = (own + each * torch.arange(len(own), device=own.device)[:, None]).flatten(), each * len(own)
            seen = channels * kept[:, :, None]
            products = rearrange(torch.einsum("btcd,bted->btce", seen, channels), "b t c e -> (b t) c e")
            shares = rearrange(torch.einsum("btcd,btd->btc", seen, given), "b t c -> (b t) c")
            c = len(CHANNELS)
            gram = (RIDGE * torch.eye(c, device=given.device)).expand(count, c, c).index_add(0, group, products)
            right = given.new_zeros(count, c).index_add(0, group, shares)
            weights = rearrange(torch.linalg.solve(gram, right)[group], "(b t) c -> b t c", b=len(given))
            return torch.einsum("btc,btcd->btd", weights, channels)
