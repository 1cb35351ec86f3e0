"""Accuracy and loss of weights: of the checkpoints of a zoo, and of generated ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import repeat
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from zoo_gen.architecture import build
from zoo_gen.errors import InputError
from zoo_gen.images import ImageSplit
from zoo_gen.stack import ModelStack, stack_of

IMAGES_AT_ONCE = 4096
"""Images of all models of a stack together in one forward pass; bounds the memory of the activations."""


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy in nats and accuracy in [0, 1] of K models on one set of images."""

    loss: Float[Tensor, "K"]
    accuracy: Float[Tensor, "K"]


def logits(
    architecture: Mapping[str, Any], state_dicts: Sequence[Mapping[str, Tensor]], pixels: Float[Tensor, "N C H W"]
) -> Float[Tensor, "K N classes"]:
    """Runs K models of one architecture on the same images, as one stack.

    Raises `InputError` if the weights do not have the shapes of the architecture.
    """
    if not state_dicts:
        raise InputError("no weights to run: the list of state dicts is empty")
    with torch.device("meta"):
        template = build(architecture)
    return stack_logits(stack_of(template, state_dicts), pixels)


@torch.no_grad()
def stack_logits(stack: ModelStack, pixels: Float[Tensor, "N C H W"]) -> Float[Tensor, "K N classes"]:
    """Runs every model of a stack on the same images, in as many pieces as the memory asks for."""
    pieces = pixels.split(max(1, IMAGES_AT_ONCE // stack.size))
    was_training = stack.training
    stack.eval()
    out = torch.cat([stack(repeat(piece, "b ... -> k b ...", k=stack.size)).float() for piece in pieces], dim=1)
    stack.train(was_training)
    return out


def score_logits(outputs: Float[Tensor, "K N classes"], labels: Int[Tensor, "N"]) -> Score:
    """Scores the outputs of K models; a model whose outputs are not finite has a loss of NaN and the accuracy of its argmax."""
    losses = functional.cross_entropy(outputs.mT, labels.expand(len(outputs), -1), reduction="none").mean(1)
    accuracies = (outputs.argmax(-1) == labels).float().mean(1)
    return Score(loss=losses, accuracy=accuracies)


def score(architecture: Mapping[str, Any], state_dicts: Sequence[Mapping[str, Tensor]], split: ImageSplit) -> Score:
    """Loss and accuracy of K models of one architecture on one split of images."""
    return score_logits(logits(architecture, state_dicts, split.pixels), split.labels)
