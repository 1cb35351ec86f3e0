"""What the peers of `benchmarks.peers` learn by: two views of checkpoints, their reconstruction, and the contrast between them.

With N checkpoints in a step, z the projected latents of their 2N views and s the cosine of two of them over the temperature,

    loss = gamma * contrast + (1 - gamma) * error,    contrast = mean over views i of -log(exp(s_ij) / sum over k != i of exp(s_ik))

where j is the other view of the same checkpoint (NT-Xent, Chen et al., arXiv 2002.05709). Own implementation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.padded_rows import RowsAutoencoder
from wsl.data.sources import FileSource
from wsl.data.windows import Batch
from wsl.layout import layout_of
from wsl.symmetry.group import PERMUTED, apply, sample
from wsl.symmetry.stacks import stack, unstack
from wsl.tokenizers.plan import Plan
from wsl.tokenizers.window import window_starts

PERMUTATIONS = 5
"""Random symmetries that views are drawn from, as in SANE."""

PROJECTED = 30
"""Numbers of a projected window, as in both peers."""

STEADY = 1e-2
"""The least deviation that an error is divided by; inputs have deviations of about 1."""


@dataclass(frozen=True)
class Way:
    """How a peer learns.

    Attributes:
        part: of the longest checkpoint's tokens, in a window.
        longest: tokens of a window, at most; None for any number.
        by_coordinate: whether errors are divided by the deviation that each coordinate of tokens has in a step.
        permuted: whether the first and the second view are moved by a random permutation.
        noise: deviation of the factors that weights of both views are multiplied by.
        gamma, temperature: of the contrast.
    """

    part: float
    longest: int | None
    by_coordinate: bool
    permuted: tuple[bool, bool]
    noise: float
    gamma: float = 0.05
    temperature: float = 0.1

    def window(self, plans: Sequence[Plan]) -> int:
        """Returns the tokens of a window of checkpoints of some plans; parts are never longer than the shortest of them."""
        most = max(plan.n_tokens for plan in plans)
        if self.part == 1:
            return most
        shortest = min(plan.n_tokens for plan in plans)
        return max(1, min(round(self.part * most), shortest, self.longest or most))


WAYS = {
    "sane": Way(part=0.5, longest=256, by_coordinate=False, permuted=(True, False), noise=0.1),
    "weightclip": Way(part=1, longest=None, by_coordinate=True, permuted=(False, True), noise=0.0),
}
"""The peers, by the settings of their public code."""


class Contrast:
    """The objective of a peer, an `objective` of `benchmarks.race.Contestant`.

    Args:
        way: how the peer learns.
        model: the autoencoder; it is given the projection of windows, `model.projection`, which training alone needs.
        sources: the checkpoints that batches are drawn from, all of their tokens in one window.
        length: tokens of a window of the model.
        seed: of permutations, windows and noise.
    """

    def __init__(self, way: Way, model: RowsAutoencoder, sources: Sequence[FileSource], *, length: int, seed: int):
        self.way, self.length, self.rng = way, length, torch.Generator().manual_seed(seed)
        hidden = nn.Linear(model.latent * length, PROJECTED), nn.LayerNorm(PROJECTED), nn.ReLU()
        self.project = nn.Sequential(*hidden, nn.Linear(PROJECTED, PROJECTED))
        model.add_module("projection", self.project)
        first = {id(source.plan): source for source in sources}
        number = {plan: n for n, plan in enumerate(first)}
        longest = max(source.plan.n_tokens for source in sources)
        self.plan_of = torch.tensor([number[id(source.plan)] for source in sources])
        moved = (permuted_places(source, PERMUTATIONS, rng=self.rng) for source in first.values())
        self.places = torch.stack([_extended(places, longest * sources[0].plan.width) for places in moved])

    def __call__(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """Returns `loss`, `contrast`, `error`, and `weights`: how many weights the windows have, which count once for two views."""
        values, mask, positions = (torch.cat(pair) for pair in zip(*self.views(batch), strict=True))
        latents = model.encode(values, mask, positions)
        first, second = self.project(latents.flatten(1)).chunk(2)
        contrast = nt_xent(first, second, temperature=self.way.temperature)
        error = squared_error(model.decode(latents, positions), values, mask, by_coordinate=self.way.by_coordinate)
        loss = self.way.gamma * contrast + (1 - self.way.gamma) * error
        return {"loss": loss, "contrast": contrast, "error": error, "weights": mask[..., :-1].sum() / 2}

    def views(self, batch: Batch) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Returns values, mask and positions of two views: of the same window of each checkpoint, permuted as a whole before."""
        starts = torch.tensor([self._start(int(total)) for total in batch.total])
        rows, taken = torch.arange(len(starts))[:, None], starts[:, None] + torch.arange(self.length)
        mask, positions = batch.mask[rows, taken], batch.positions[rows, taken]
        found = []
        for permuted in self.way.permuted:
            values = (self._permuted(batch) if permuted else batch.values)[rows, taken]
            if self.way.noise:
                values = values * (1 + self.way.noise * torch.randn(values.shape, generator=self.rng))
            found.append((values, mask, positions))
        return found

    def _start(self, total: int) -> int:
        """One of the windows that cover a checkpoint: drawn evenly, first and last tokens would hardly ever be seen."""
        starts = window_starts(total, self.length)
        return starts[int(torch.randint(len(starts), (), generator=self.rng))]

    def _permuted(self, batch: Batch) -> Float[Tensor, "B T D+1"]:
        drawn = torch.randint(PERMUTATIONS, (len(batch.source),), generator=self.rng)
        weights = batch.values[..., :-1]
        moved = weights.flatten(1).gather(1, self.places[self.plan_of[batch.source], drawn]).view(weights.shape)
        return torch.cat([moved, batch.values[..., -1:]], dim=-1)


def nt_xent(first: Float[Tensor, "N P"], second: Float[Tensor, "N P"], *, temperature: float) -> Float[Tensor, ""]:
    """Returns the contrast of two views of N checkpoints; see the module."""
    views = functional.normalize(torch.cat([first, second]), dim=1)
    similar = (views @ views.T / temperature).fill_diagonal_(-torch.inf)
    return functional.cross_entropy(similar, torch.arange(len(views)).roll(len(first)))


def squared_error(
    decoded: Float[Tensor, "B T D"], values: Float[Tensor, "B T D+1"], mask: Tensor, *, by_coordinate: bool
) -> Float[Tensor, ""]:
    """Returns the mean squared error over weights, or that of weights over the deviation of their coordinate of tokens."""
    true, real = values[..., :-1], mask[..., :-1]
    squares = (decoded - true).square() * real
    if by_coordinate:
        count = real.sum((0, 1)).clamp(min=1)
        mean = (true * real).sum((0, 1)) / count
        variance = ((true - mean).square() * real).sum((0, 1)) / count
        squares = squares / variance.clamp(min=STEADY**2)
    return squares.sum() / real.sum()


def permuted_places(source: FileSource, count: int, *, rng: torch.Generator) -> Int[Tensor, "count T*D"]:
    """Returns where the values of tokens come from when a checkpoint is moved by random permutations that keep its function.

    Padding stays where it is. Tokens are those of weights, with no root.
    """
    weights = source.checkpoint.state_dict()
    layout = layout_of(source.checkpoint.build())
    numbered, start = {}, 1  # 0 is padding
    for name, tensor in weights.items():
        numbered[name] = torch.arange(start, start + tensor.numel(), dtype=torch.float64).view(tensor.shape)
        start += tensor.numel()
    element = sample(layout, count, rng, moves=PERMUTED, maps="orthogonal", dtype=torch.float64)
    moved = unstack(apply(element, stack([numbered] * count), layout))
    before, *after = (source.tokenizer.encode(one).values.flatten().long() for one in (numbered, *moved))
    place = torch.zeros(start, dtype=torch.int64)
    place[before] = torch.arange(len(before))
    return torch.stack([torch.where(one > 0, place[one], torch.arange(len(one))) for one in after])


def _extended(places: Int[Tensor, "count n"], length: int) -> Int[Tensor, "count length"]:
    """Returns places of a longer buffer, whose end stays where it is."""
    return torch.cat([places, torch.arange(places.shape[1], length).expand(len(places), -1)], dim=1)
