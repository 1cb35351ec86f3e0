"""Recipes of model soups, for many groups of ingredients at once: coefficients (K n) that sum to 1 for each group.

Uniform and greedy: Wortsman et al., 2203.05482. Learned coefficients are a softmax, found by Adam on labelled validation images.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wsl.analyses.flat_models import FlatModels
from zoo_gen.images import ImageSplit

Groups = Sequence[Float[Tensor, "n W"]]
"""Ingredients of each group as rows, the best one by val first."""

Coefficients = list[Float[Tensor, " n"]]


def uniform(groups: Groups) -> Coefficients:
    """Returns equal coefficients."""
    return [torch.full((len(group),), 1 / len(group)) for group in groups]


def greedy(groups: Groups, models: FlatModels, val: ImageSplit) -> Coefficients:
    """Adds one ingredient after the other, and keeps it where the accuracy on val images does not fall."""
    kept = [[0] for _ in groups]
    best = models.scores(torch.stack([group[0] for group in groups]), val)[0]
    for place in range(1, max(map(len, groups))):
        some = [number for number, group in enumerate(groups) if place < len(group)]
        candidates = torch.stack([groups[number][[*kept[number], place]].mean(0) for number in some])
        for number, found in zip(some, models.scores(candidates, val)[0], strict=True):
            if found >= best[number]:
                kept[number].append(place)
                best[number] = found
    return [
        torch.zeros(len(group)).index_fill(0, torch.tensor(some), 1 / len(some)) for group, some in zip(groups, kept, strict=True)
    ]


def learned(
    groups: Groups, models: FlatModels, val: ImageSplit, *, steps: int, rate: float, advance: Callable[[], object]
) -> Coefficients:
    """Learns the coefficients of each group on val images, from equal ones; those of the lowest loss on the way count."""
    longest = max(map(len, groups))
    absent = torch.tensor([[place >= len(group) for place in range(longest)] for group in groups])
    scores = torch.zeros(len(groups), longest, requires_grad=True)
    optimizer = torch.optim.Adam([scores], lr=rate)
    lowest, kept = torch.full((len(groups),), torch.inf), torch.zeros(len(groups), longest)
    for _ in range(steps + 1):
        shares = scores.masked_fill(absent, -torch.inf).softmax(1)
        rows = mixed(groups, [share[: len(group)] for share, group in zip(shares.detach(), groups, strict=True)])
        losses, gradients = models.gradient(rows, val.pixels, val.labels)
        better = losses < lowest
        lowest, kept = torch.where(better, losses, lowest), torch.where(better[:, None], shares.detach(), kept)
        by_share = torch.zeros_like(kept)
        for number, (group, gradient) in enumerate(zip(groups, gradients, strict=True)):
            by_share[number, : len(group)] = group @ gradient
        optimizer.zero_grad()
        shares.backward(by_share)
        optimizer.step()
        advance()
    return [share[: len(group)].clone() for share, group in zip(kept, groups, strict=True)]


def mixed(groups: Groups, coefficients: Sequence[Float[Tensor, " n"]]) -> Float[Tensor, "K W"]:
    """Returns the soup of each group."""
    return torch.stack([share.to(group) @ group for group, share in zip(groups, coefficients, strict=True)])


def epoch_recipes(
    epochs: int, val: Float[np.ndarray, " E"] | None, *, last: Sequence[int], decays: Sequence[float], best: Sequence[int]
) -> dict[str, Float[np.ndarray, " E"]]:
    """Returns the coefficients of each mean over the E epochs of a model.

    Args:
        epochs: their number.
        val: accuracy on val images of each; None where it is not known, and then no recipe needs it.
        last: of how many epochs at the end the mean is.
        decays: of exponential means: an epoch earlier counts so much less.
        best: of how many epochs the mean is, those of the highest accuracy on val images; later ones first, of equal ones.
    """

    def share(chosen: Sequence[int] | np.ndarray) -> np.ndarray:
        found = np.zeros(epochs)
        found[np.asarray(chosen)] = 1 / len(chosen)
        return found

    recipes = {"final epoch": share([epochs - 1])}
    recipes |= {f"last {k}": share(range(epochs - min(k, epochs), epochs)) for k in last}
    for decay in decays:
        powers = decay ** np.arange(epochs - 1, -1, -1.0)
        recipes[f"exponential {decay:g}"] = powers / powers.sum()
    if val is not None:
        order = np.lexsort((-np.arange(epochs), -val))
        recipes["best epoch by val"] = share(order[:1])
        recipes |= {f"best {k} by val": share(order[: min(k, epochs)]) for k in best}
    return recipes
