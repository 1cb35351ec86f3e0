"""The rival of `benchmarks.hyperrep_throughput` and `benchmarks.peers`: an autoencoder of padded rows, in the way of the peers.

After SANE (Schürholt et al., "Towards Scalable and Versatile Weight Space Learning", arXiv 2406.09997). Tokens are rows of matrices
with their biases, zero-padded to a multiple of a width (`wsl.tokenizers.rows`). Each part of each layer is standardised by its mean
and deviation over the train checkpoints. One linear map embeds all tokens, learned embeddings of the layer and of the place in it
are added, and pre-norm blocks of GPT-2's kind follow on either side of the bottleneck. The loss is the masked squared error.

The rival is better off here than there: biases, norms and position embeddings are tokens too; q, k, v and biases have deviations of
their own; places are embedded by layer, not by one table of all tokens of a checkpoint. `masked_error` has no contrastive loss.
"""

import functools
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

from wsl.data.sources import Source
from wsl.data.standardizer import Moments
from wsl.data.windows import Batch
from wsl.layout.slots import ROLES
from wsl.models.pooling import pooled
from wsl.tokenizers.plan import Plan
from wsl.tokenizers.tokens import Tokens
from wsl.tokenizers.window import Sums, Window

FAINT = 1e-8
"""Deviation under which a part never varies."""

AS_IT_IS = (0.0, 1.0)
"""Mean and deviation of padding, and of a part that no train checkpoint has."""

EQUAL = 0.02
"""Difference between two compressions that are called equal."""


def moments_of(sources: Iterable[Source]) -> dict[str, Moments]:
    """Mean and deviation of each part of each layer over checkpoints, by its key."""
    totals: dict[str, Tensor] = {}
    for source in sources:
        for segment, sums in zip(source.plan.parts, source.sums.tolist(), strict=True):
            totals[segment.key] = totals.get(segment.key, 0) + torch.tensor([segment.n_weights, *sums], dtype=torch.float64)
    found = {}
    for key, (count, total, square) in totals.items():
        mean = total / count
        found[key] = mean.item(), (square / count - mean**2).clamp(min=0).sqrt().item()
    return found


class LayerStandardizer:
    """A z-score of each part of each layer, in the interface of `wsl.data.standardizer.Standardizer`; `parts` by their keys."""

    def __init__(self, parts: Mapping[str, Moments]):
        self.parts = parts
        self._laid_out: dict[int, tuple[Plan, Tensor, Tensor]] = {}

    def log_scales(self, plan: Plan, sums: Sums) -> Float[Tensor, " G"]:
        """There are none: zeros."""
        return torch.zeros(len(plan.groups))

    def standardize(self, tokens: Tokens) -> Float[Tensor, "T D+1"]:
        """All tokens of a checkpoint, and a last coordinate that nobody reads."""
        return self._scaled(tokens.values, tokens.plan, tokens.plan.part_of)

    def standardize_window(
        self, values: Float[Tensor, "T D"], window: Window, log_scales: Float[Tensor, " G"]
    ) -> Float[Tensor, "T D+1"]:
        """Tokens of a window, and a last coordinate that nobody reads."""
        return self._scaled(values, window.plan, window.parts)

    def _scaled(self, values: Float[Tensor, "T D"], plan: Plan, parts: Int[Tensor, "T D"]) -> Float[Tensor, "T D+1"]:
        mean, deviation = self._entries(plan)
        scaled = (values.float() - mean[parts]) / deviation[parts]
        return pad(torch.where(parts >= 0, scaled, 0), (0, 1))

    def in_deviations(self, tokens: Tokens) -> Float[Tensor, "T D"]:
        """Values over the deviations of their parts."""
        return torch.where(tokens.mask, tokens.values.float() / self._entries(tokens.plan)[1][tokens.plan.part_of], 0)

    def restore(self, values: Float[Tensor, "T D"], plan: Plan) -> Float[Tensor, "T D"]:
        """Inverse of `standardize`, without the last coordinate."""
        mean, deviation = self._entries(plan)
        return torch.where(plan.mask, values * deviation[plan.part_of] + mean[plan.part_of], 0)

    def _entries(self, plan: Plan) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each part, and of padding."""
        if id(plan) not in self._laid_out:
            mean, deviation = torch.tensor([*(self.parts.get(segment.key, AS_IT_IS) for segment in plan.parts), AS_IT_IS]).T
            self._laid_out[id(plan)] = plan, mean, torch.where(deviation > FAINT, deviation, 1)
        return self._laid_out[id(plan)][1:]


class RowsAutoencoder(nn.Module):
    """A transformer autoencoder of padded rows of D weights, with latents of Z numbers, and `depth` blocks on either side.

    `layers` and `places` count the embeddings of positions; padded tokens have one of their own.
    """

    def __init__(self, *, token_width: int, latent: int, width: int, layers: int, places: int, heads: int, depth: int):
        super().__init__()
        self.latent = latent
        self.project = nn.Linear(token_width, width)
        self.layer = nn.Embedding(layers + 1, width // 2)
        self.place = nn.Embedding(places + 1, width // 2)
        self.encoder = _blocks(width, heads=heads, depth=depth)
        self.bottleneck = nn.Linear(width, latent)
        self.expand = nn.Linear(latent, width)
        self.decoder = _blocks(width, heads=heads, depth=depth)
        self.unproject = nn.Linear(width, token_width)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:  # as GPT-2
                last = name.endswith(("out_proj.weight", "linear2.weight"))
                nn.init.normal_(parameter, std=0.02 / ((2 * depth) ** 0.5 if last else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def numbers(self, positions: Int[Tensor, "T P"]) -> int:
        """How many numbers the decoder gets for a checkpoint whose tokens have these positions."""
        return self.latent * len(positions)

    def forward(self, values: Tensor, mask: Tensor, positions: Tensor, side: Tensor, total: Tensor) -> Float[Tensor, "B T D"]:
        """Reconstruction of windows, of which neither mask nor what is known beside tokens is read."""
        return self.decode(self.encode(values, mask, positions), positions)

    def encode(
        self, values: Float[Tensor, "B T D+1"], mask: Bool[Tensor, "B T D+1"], positions: Int[Tensor, "B T P"], *_: Tensor
    ) -> Float[Tensor, "B T Z"]:
        """Latents of windows; the last coordinate is not read."""
        return self.bottleneck(self.encoder(self.project(values[..., :-1]) + self._positions(positions)))

    def decode(self, latents: Float[Tensor, "B T Z"], positions: Int[Tensor, "B T P"], *_: Tensor) -> Float[Tensor, "B T D"]:
        """Rows from latents and the positions they are for."""
        return self.unproject(self.decoder(self.expand(latents) + self._positions(positions)))

    def embed(
        self, latents: Float[Tensor, "B T Z"], positions: Int[Tensor, "T P"], groups: Sequence[tuple[int, int]]
    ) -> Float[Tensor, "B F"]:
        """One vector per checkpoint, pooled as ours (`wsl.models.pooling`); groups have log-scales of zero."""
        return pooled(pad(latents, (0, 1)), positions, groups)

    def _positions(self, positions: Int[Tensor, "B T P"]) -> Float[Tensor, "B T M"]:
        block, role, index = (positions + 1).unbind(-1)
        layer = torch.where(block > 0, (block - 1) * len(ROLES) + role, 0)
        return torch.cat([self.layer(layer), self.place(index)], dim=-1)


def _blocks(width: int, *, heads: int, depth: int) -> nn.Sequential:
    """Blocks of GPT-2's kind: no biases, MLPs of four widths, no dropout."""
    kind = {"dropout": 0.0, "activation": gelu, "batch_first": True, "norm_first": True, "bias": False}
    return nn.Sequential(*(nn.TransformerEncoderLayer(width, heads, 4 * width, **kind) for _ in range(depth)))


def masked_error(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The rival's objective: `loss`, the mean squared error over weights."""
    decoded = model(*batch.inputs)
    return {"loss": ((decoded - batch.values[..., :-1]).square() * batch.mask[..., :-1]).sum() / batch.entries}


def per_token(plans: Sequence[Plan]) -> float:
    """Mean weights per token."""
    return float(np.mean([plan.n_weights / plan.n_tokens for plan in plans]))


def size_of(model: nn.Module) -> int:
    """Weights of a network."""
    return sum(parameter.numel() for parameter in model.parameters())


def of_size(size: int, plans: Sequence[Plan], *, latent: int, heads: int, depth: int, seed: int) -> RowsAutoencoder:
    """Returns an autoencoder for tokens of some plans, of the width that brings its weights closest to `size`."""
    blocks, _, places = (torch.stack([plan.positions.amax(0) for plan in plans]).amax(0) + 1).tolist()
    sizes = {"token_width": plans[0].width, "latent": latent, "layers": blocks * len(ROLES), "places": places}
    build = functools.partial(RowsAutoencoder, **sizes, heads=heads, depth=depth)
    widths = range(2 * heads, 4096, 2 * heads)
    with torch.device("meta"):
        above = bisect_left(widths, size, key=lambda width: size_of(build(width=width)))
        best = min(widths[max(0, above - 1) : above + 1], key=lambda width: abs(size_of(build(width=width)) - size))
    torch.manual_seed(seed)
    return build(width=best)
