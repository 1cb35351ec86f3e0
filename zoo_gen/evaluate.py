"""Accuracy and loss of weights: of the checkpoints of a zoo, and of generated ones."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from zoo_gen.architecture import skeleton
from zoo_gen.images import ImageSplit
from zoo_gen.stack import ModelStack, stack_of
from zoo_gen.team import ALONE, Team

ENTRIES_AT_ONCE = 2**18
"""Entries of the residual stream of all models of a stack together in one forward pass: what a core's cache holds is fastest."""


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy in nats and accuracy in [0, 1] of K models on one set of images."""

    loss: Float[Tensor, "K"]
    accuracy: Float[Tensor, "K"]


@torch.no_grad()
def logits(
    architecture: Mapping[str, Any], state_dicts: Sequence[Mapping[str, Tensor]], pixels: Float[Tensor, "N C H W"]
) -> Float[Tensor, "K N classes"]:
    """Runs K models of one architecture on the same images, as one stack.

    Raises `InputError` if the weights do not have the shapes of the architecture.
    """
    stack = stack_of(skeleton(architecture), state_dicts).eval()
    pieces = pixels.split(images_at_once(stack))
    return torch.cat([stack(repeat(piece, "b ... -> k b ...", k=stack.size)).float() for piece in pieces], dim=1)


def images_at_once(stack: ModelStack) -> int:
    """Images of each model in one forward pass: as many as fit the budget of activations."""
    per_image = max((math.prod(shape[1:]) for name, (_, shape) in stack.slots.items() if name.endswith("pos_embed")), default=2048)
    budget = ENTRIES_AT_ONCE if stack.flat.device.type == "cpu" else 256 * ENTRIES_AT_ONCE
    return max(1, budget // per_image // stack.size)


@torch.no_grad()
def score_stack(stack: ModelStack, split: ImageSplit, seen: Bool[Tensor, "K N"] | None, *, team: Team = ALONE) -> Score:
    """Scores a stack piece by piece, so that images and outputs never lie in memory as a whole; a team divides the pieces.

    `seen` marks the images that count for each model, None for all.
    """
    was_training = stack.training
    stack.eval()
    losses = torch.zeros(stack.size, dtype=torch.float64, device=stack.flat.device)
    hits, counts = torch.zeros_like(losses), torch.zeros_like(losses)
    pieces = torch.arange(len(split)).split(images_at_once(stack))[team.rank :: team.size]
    for piece, pixels in zip(pieces, split.batches(pieces), strict=True):
        labels = split.labels[piece].expand(stack.size, -1)
        outputs = stack(pixels.to(stack.flat.dtype).expand(stack.size, -1, -1, -1, -1)).to(stack.flat.dtype)
        loss = functional.cross_entropy(outputs.mT, labels, reduction="none")
        hit = (outputs.argmax(-1) == labels).to(loss.dtype)
        weight = torch.ones_like(loss) if seen is None else seen[:, piece].to(loss.dtype)
        losses += torch.where(weight > 0, loss, 0).sum(1)
        hits += (hit * weight).sum(1)
        counts += weight.sum(1)
    stack.train(was_training)
    losses, hits, counts = team.sum(torch.stack([losses, hits, counts]))
    return Score(loss=(losses / counts).float(), accuracy=(hits / counts).float())


def score_logits(outputs: Float[Tensor, "K N classes"], labels: Int[Tensor, "N"]) -> Score:
    """Scores the outputs of K models; a model whose outputs are not finite has a loss of NaN and the accuracy of its argmax."""
    loss = functional.cross_entropy(outputs.mT, labels.expand(len(outputs), -1), reduction="none").mean(1)
    return Score(loss, accuracy=(outputs.argmax(-1) == labels).float().mean(1))


def score(architecture: Mapping[str, Any], state_dicts: Sequence[Mapping[str, Tensor]], split: ImageSplit) -> Score:
    """Loss and accuracy of K models of one architecture on one split of images."""
    return score_stack(stack_of(skeleton(architecture), state_dicts), split, None)
