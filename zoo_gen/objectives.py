"""Objectives of a stack: cross-entropy with soft targets, and SimCLR (arXiv 2002.05709), which compares two views of each image."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional


def smooth_targets(labels: Int[Tensor, "K B"], num_classes: int, smoothing: Float[Tensor, "K"]) -> Float[Tensor, "K B classes"]:
    """Returns one-hot targets with a share `smoothing` spread over all classes."""
    share = smoothing[:, None, None]
    return functional.one_hot(labels, num_classes).to(smoothing.dtype) * (1 - share) + share / num_classes


def cross_entropy(logits: Float[Tensor, "K B classes"], targets: Float[Tensor, "K B classes"]) -> Float[Tensor, "K"]:
    """Returns the mean cross-entropy of each model, in nats."""
    return -(targets * torch.log_softmax(logits, -1)).sum(-1).mean(-1)


class SimCLR(nn.Module):
    """A backbone and its projection head, a two-layer perceptron that is thrown away after pre-training."""

    def __init__(self, backbone: Any):
        super().__init__()
        width = backbone.num_features
        self.backbone = backbone
        self.projector = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, pixels: Float[Tensor, "B C H W"]) -> Float[Tensor, "B M"]:
        """Projects images to the space in which views are compared."""
        return self.projector(self.backbone(pixels))


def nt_xent(views: Float[Tensor, "K 2*B M"], temperature: Float[Tensor, "K"]) -> Float[Tensor, "K"]:
    """Returns the normalised temperature-scaled cross-entropy of each model, in nats.

    `views` are first views of B images, then the second views of the same images in the same order.
    """
    unit = functional.normalize(views, dim=-1)
    alike = unit @ unit.mT / temperature[:, None, None]
    count = views.shape[1]
    itself = torch.eye(count, dtype=torch.bool, device=views.device)
    alike = alike.masked_fill(itself, float("-inf"))
    partner = torch.arange(count, device=views.device).roll(count // 2)
    return functional.cross_entropy(alike.mT, partner.expand(len(views), -1), reduction="none").mean(1)
