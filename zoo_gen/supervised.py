"""Supervised loss of a stack: cross-entropy with label smoothing, mixup and cutmix."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional


def smooth_targets(labels: Int[Tensor, "K B"], num_classes: int, smoothing: Float[Tensor, "K"]) -> Float[Tensor, "K B classes"]:
    """Returns one-hot targets with a share `smoothing` spread over all classes."""
    share = smoothing[:, None, None]
    return functional.one_hot(labels, num_classes).to(smoothing.dtype) * (1 - share) + share / num_classes


def cross_entropy(logits: Float[Tensor, "K B classes"], targets: Float[Tensor, "K B classes"]) -> Float[Tensor, "K"]:
    """Returns the mean cross-entropy of each model, in nats."""
    return -(targets * torch.log_softmax(logits, -1)).sum(-1).mean(-1)
