"""The rival of `benchmarks.hyperrep_throughput`: an autoencoder of weights in the way of the peers, in our own words.

After SANE (Schürholt et al., "Towards Scalable and Versatile Weight Space Learning", arXiv 2406.09997): tokens are rows of weight
matrices with their biases, zero-padded to a multiple of a width (`wsl.tokenizers.rows`); each part of each layer is standardised by
its mean and deviation over the train checkpoints; one linear map embeds all tokens, learned embeddings of the layer and of the
place in it are added, pre-norm transformer blocks of GPT-2's kind (no biases, MLPs of four widths, no dropout) follow on either
side of the bottleneck; the loss is the masked squared error. Where it is better off here than there: biases, norms and position
embeddings are tokens too; q, k, v and biases have deviations of their own; places are embedded by layer, which the model pays for,
and not by one table of all tokens of a checkpoint beside it; there are no second view and no contrastive loss.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from wsl.data.standardizer import Moments
from wsl.data.sums import Sums
from wsl.data.windows import Batch
from wsl.layout.axis_table import ROLES
from wsl.tokenizers.plan import Plan
from wsl.tokenizers.window import Window

FAINT = 1e-8
"""Deviation under which a part never varies."""


def keys_of(plan: Plan) -> list[str]:
    """Names of the parts of a plan, in the order of sums: a part has the same name under every tokenizer."""
    return [segment.key for group in plan.groups for segment in group.segments]


def counts_of(plan: Plan) -> Float[Tensor, " parts"]:
    """Weights of each part."""
    return torch.tensor([float(s.n_weights) for group in plan.groups for s in group.segments], dtype=torch.float64)


def moments_of(sources: Iterable[tuple[Plan, Sums]]) -> dict[str, Moments]:
    """Mean and deviation of each part of each layer over checkpoints."""
    totals: dict[str, Tensor] = {}
    for plan, sums in sources:
        for key, row in zip(keys_of(plan), torch.cat([counts_of(plan)[:, None], sums], dim=1), strict=True):
            totals[key] = totals.get(key, 0) + row
    found = {}
    for key, (count, total, square) in totals.items():
        mean = total / count
        found[key] = mean.item(), (square / count - mean**2).clamp(min=0).sqrt().item()
    return found


class LayerStandardizer:
    """A z-score of each part of each layer, in the interface of `wsl.data.standardizer.Standardizer`.

    Args:
        parts: mean and deviation by the name of the part.
    """

    def __init__(self, parts: Mapping[str, Moments]):
        self.parts = parts
        self._laid_out: dict[int, tuple[Plan, Tensor, Tensor]] = {}

    def log_scales(self, plan: Plan, sums: Sums) -> Float[Tensor, " G"]:
        """There are none: zeros."""
        return torch.zeros(len(plan.groups))

    def standardize_window(
        self, values: Float[Tensor, "T D"], window: Window, log_scales: Float[Tensor, " G"]
    ) -> Float[Tensor, "T D+1"]:
        """Tokens of a window, and a last coordinate that nobody reads."""
        mean, deviation = self._entries(window.plan)
        scaled = (values.float() - mean[window.parts]) / deviation[window.parts]
        return functional.pad(torch.where(window.parts >= 0, scaled, 0), (0, 1))

    def restore(self, values: Float[Tensor, "T D"], window: Window) -> Float[Tensor, "T D"]:
        """Inverse of `standardize_window`."""
        mean, deviation = self._entries(window.plan)
        return torch.where(window.parts >= 0, values * deviation[window.parts] + mean[window.parts], 0)

    def _entries(self, plan: Plan) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each part, and of padding."""
        if id(plan) not in self._laid_out:
            mean, deviation = torch.tensor([*(self.parts[key] for key in keys_of(plan)), (0.0, 1.0)]).T
            self._laid_out[id(plan)] = plan, mean, torch.where(deviation > FAINT, deviation, 1)
        return self._laid_out[id(plan)][1:]


class Sizes(NamedTuple):
    """Sizes of the network: numbers per token D, per latent Z, width M, layers there are, places in a layer."""

    token_width: int
    latent: int
    width: int
    layers: int
    places: int


class RowsAutoencoder(nn.Module):
    """A transformer autoencoder of padded rows.

    Args:
        sizes: of the network.
        heads: of attention.
        depth: blocks on either side.
    """

    def __init__(self, sizes: Sizes, *, heads: int, depth: int):
        super().__init__()
        width, self.token_width = sizes.width, sizes.token_width
        self.project = nn.Linear(sizes.token_width, width)
        self.layer = nn.Embedding(sizes.layers, width // 2)
        self.place = nn.Embedding(sizes.places, width // 2)
        self.encoder = nn.ModuleList(_Block(width, heads=heads) for _ in range(depth))
        self.bottleneck = nn.Linear(width, sizes.latent)
        self.expand = nn.Linear(sizes.latent, width)
        self.decoder = nn.ModuleList(_Block(width, heads=heads) for _ in range(depth))
        self.unproject = nn.Linear(width, sizes.token_width)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:  # as GPT-2
                nn.init.normal_(parameter, std=0.02 / ((2 * depth) ** 0.5 if name.endswith("last.weight") else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(
        self, values: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T D"], positions: Int[Tensor, "B T P"]
    ) -> Float[Tensor, "B T D"]:
        """Reconstruction of windows without padded tokens."""
        block, role, index = positions.unbind(-1)
        place = torch.cat([self.layer(block * len(ROLES) + role), self.place(index)], dim=-1)
        x = self.project(values) + place
        for layer in self.encoder:
            x = layer(x)
        x = self.expand(self.bottleneck(x)) + place
        for layer in self.decoder:
            x = layer(x)
        return self.unproject(x)


class _Block(nn.Module):
    """A pre-norm transformer block without biases."""

    def __init__(self, width: int, *, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attn_last = nn.Linear(width, width, bias=False)
        self.fc = nn.Linear(width, 4 * width, bias=False)
        self.mlp_last = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Float[Tensor, "B T M"]) -> Float[Tensor, "B T M"]:
        """Maps a window of tokens."""
        q, k, v = rearrange(self.qkv(self.norm1(x)), "b t (n h d) -> n b h t d", n=3, h=self.heads)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.attn_last(rearrange(mixed, "b h t d -> b t (h d)"))
        return x + self.mlp_last(functional.gelu(self.fc(self.norm2(x))))


def masked_error(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The rival's objective: `loss`, the mean squared error over weights; the last coordinate of tokens is not read."""
    values, mask = batch.values[..., :-1], batch.mask[..., :-1]
    squared = (model(values, mask, batch.positions).float() - values).square() * mask
    return {"loss": squared.sum() / batch.entries}
