r"""Behaviour of many models on the same images: how good they are, and how alike.

CKA compares features by their kernels (Kornblith et al., 1905.00414). The debiased one has the unbiased estimate of HSIC (Song et
al., 2012) above and below, an inner product of U-centred kernels (Székely & Rizzo, 2014): 0 on average for independent features,
however few the samples. Calibration: Guo et al., 1706.04599.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.special import rel_entr, softmax
from torch import Tensor

from zoo_gen.architecture import skeleton
from zoo_gen.stack import stack_of

BINS = 15
"""Of confidence, in the expected calibration error."""


def error_overlap(errors: Bool[np.ndarray, "N I"]) -> Float[np.ndarray, "N N"]:
    """Returns the errors that two models share over those that either makes (Jaccard); 1 where neither makes any."""
    counts = errors.astype(np.float64)
    both = counts @ counts.T
    either = counts.sum(1)[:, None] + counts.sum(1)[None, :] - both
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def jensen_shannon(logits: Float[np.ndarray, "N I classes"]) -> Float[np.ndarray, "N N"]:
    """Returns the mean over images of the Jensen-Shannon divergence of two models' predictions, in bits: 0 to 1."""
    p = softmax(logits.astype(np.float64), axis=-1)
    found = np.zeros((len(p), len(p)))
    for i in range(len(p) - 1):
        middle = (p[i] + p[i + 1 :]) / 2
        divergence = rel_entr(p[i], middle).sum(-1) + rel_entr(p[i + 1 :], middle).sum(-1)
        found[i, i + 1 :] = found[i + 1 :, i] = divergence.mean(-1) / (2 * np.log(2))
    return found


def calibration_error(logits: Float[np.ndarray, "N I classes"], labels: Int[np.ndarray, " I"]) -> Float[np.ndarray, " N"]:
    """Returns the expected calibration error of each model, over `BINS` bins of equal width."""
    p = softmax(logits.astype(np.float64), axis=-1)
    confidence, hits = p.max(-1), p.argmax(-1) == labels
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.zeros((len(p), BINS))
    for number in range(BINS):
        inside = place == number
        gaps[:, number] = np.abs(np.where(inside, confidence - hits, 0).sum(1))
    return gaps.sum(1) / len(labels)


def u_centred(features: Float[Tensor, "N I F"]) -> Float[Tensor, "N I*I"]:
    """Returns the U-centred linear kernel of each model's features, as a row of norm 1; of zeros where the features are constant.

    At least four images are needed.
    """
    x = features.double()
    x = x - x.mean(1, keepdim=True)
    kernel = x @ x.mT
    n = kernel.shape[-1]
    off = ~torch.eye(n, dtype=torch.bool)
    kernel = kernel * off
    rows = kernel.sum(-1)
    kernel = (kernel - (rows[:, :, None] + rows[:, None, :]) / (n - 2) + rows.sum(-1)[:, None, None] / ((n - 1) * (n - 2))) * off
    flat = kernel.flatten(1)
    norm = flat.norm(dim=1, keepdim=True)
    return torch.where(norm > 1e-12, flat / norm, 0).float()


def debiased_cka(features: Sequence[Float[Tensor, "N I F"]]) -> Float[np.ndarray, "N N"]:
    """Returns the debiased linear CKA of all pairs of models; their features, in groups of models, may differ in width."""
    rows = torch.cat([u_centred(some) for some in features])
    return (rows @ rows.mT).double().clamp(-1, 1).numpy()


@torch.no_grad()
def features_by_layer(
    architecture: Mapping[str, object], states: Sequence[Mapping[str, Tensor]], pixels: Float[Tensor, "I C H W"]
) -> dict[str, Float[Tensor, "K I width"]]:
    """Returns the first token after each block of K models of one architecture; nothing of models without `blocks.<n>`."""
    stack = stack_of(skeleton(architecture), states).eval()
    found: dict[str, Tensor] = {}
    hooks = []
    for name, module in stack.model.named_modules():
        if numbered := re.search(r"(?:^|\.)(blocks\.\d+)$", name):

            def keep(module: object, inputs: object, out: Tensor, layer: str = numbered[1]) -> None:
                found[layer] = out.reshape(len(states), len(pixels), -1, out.shape[-1])[:, :, 0]

            hooks.append(module.register_forward_hook(keep))
    stack(pixels.expand(len(states), *pixels.shape))
    for hook in hooks:
        hook.remove()
    return found
