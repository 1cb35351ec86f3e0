"""Augmentation of stacks: every random number comes from the model's own stream, every operation runs on all models at once.

Sources: mixup arXiv 1710.09412, cutmix arXiv 1905.04899, random erasing arXiv 1708.04896, views of SimCLR arXiv 2002.05709.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from zoo_gen.recipe import Recipe

DRAWS = 12
"""Uniform numbers that one view of one image takes: 7 for the view, 5 for erasing."""


class Strengths:
    """The augmentation strengths of K recipes as (K, 1) tensors, and which of them are in use at all."""

    def __init__(self, recipes: Sequence[Recipe], device: torch.device | str):
        def column(name: str) -> Tensor:
            return torch.tensor([[float(getattr(recipe, name))] for recipe in recipes], device=device)

        self.crop, self.shift, self.rotate = column("crop"), column("shift"), column("rotate")
        self.flip, self.jitter, self.erasing = column("flip"), column("jitter"), column("random_erasing")
        self.mixup, self.cutmix = [r.mixup for r in recipes], [r.cutmix for r in recipes]
        self.moves = bool((self.crop < 1).any() or (self.shift > 0).any() or (self.rotate > 0).any() or (self.flip > 0).any())
        self.jitters = bool((self.jitter > 0).any())
        self.erases = bool((self.erasing > 0).any())
        self.mixes = any(self.mixup) or any(self.cutmix)


def view(pixels: Float[Tensor, "K B C H W"], draws: Float[Tensor, "K B draws"], strengths: Strengths) -> Float[Tensor, "K B C H W"]:
    """Returns one random view: crop, shift, rotation and flip as one affine map, then contrast and brightness, then erasing."""
    x = pixels
    if strengths.moves:
        angle = (2 * draws[..., 0] - 1) * strengths.rotate * (math.pi / 180)
        scale = 1 - draws[..., 1] * (1 - strengths.crop)
        slack = (1 - scale) + 2 * strengths.shift
        mirror = torch.where(draws[..., 4] < strengths.flip, -1.0, 1.0)
        cos, sin = scale * angle.cos(), scale * angle.sin()
        rows = [cos * mirror, -sin, (2 * draws[..., 2] - 1) * slack, sin * mirror, cos, (2 * draws[..., 3] - 1) * slack]
        theta = rearrange(torch.stack(rows, -1), "k b (r c) -> (k b) r c", r=2)
        flat = x.flatten(0, 1)
        grid = functional.affine_grid(theta.to(flat.dtype), list(flat.shape), align_corners=False)
        x = functional.grid_sample(flat, grid, mode="bilinear", padding_mode="border", align_corners=False).view_as(x)
    if strengths.jitters:
        contrast = 1 + (2 * draws[..., 5] - 1) * strengths.jitter
        brightness = (2 * draws[..., 6] - 1) * strengths.jitter
        x = x * contrast[..., None, None, None] + brightness[..., None, None, None]
    if strengths.erases:
        height, width = x.shape[-2:]
        area = (0.02 + draws[..., 8] * (1 / 3 - 0.02)) * height * width
        aspect = torch.exp((2 * draws[..., 9] - 1) * math.log(3.3))
        tall, wide = (area * aspect).sqrt().clamp(max=height), (area / aspect).sqrt().clamp(max=width)
        inside = _box(x, draws[..., 10] * (height - tall), draws[..., 11] * (width - wide), tall, wide)
        erased = inside & (draws[..., 7] < strengths.erasing)[..., None, None, None]
        x = x.masked_fill(erased, 0.0)
    return x


def _box(x: Tensor, top: Tensor, left: Tensor, tall: Tensor, wide: Tensor) -> Tensor:
    """Returns the mask (..., 1, H, W) of pixels whose centre lies in the given boxes (...)."""
    rows = torch.arange(x.shape[-2], device=x.device) + 0.5
    columns = torch.arange(x.shape[-1], device=x.device) + 0.5
    in_rows = (rows >= top[..., None]) & (rows < (top + tall)[..., None])
    in_columns = (columns >= left[..., None]) & (columns < (left + wide)[..., None])
    return (in_rows[..., :, None] & in_columns[..., None, :]).unsqueeze(-3)


def mixing_draws(rngs: Sequence[np.random.Generator], steps: int, strengths: Strengths) -> Float[np.ndarray, "K steps 4"]:
    """Draws, per model and step: the mixing weight, whether it is cutmix, and the centre of the box."""
    draws = np.ones((len(rngs), steps, 4), dtype=np.float32)
    for k, rng in enumerate(rngs):
        uniform = rng.random((steps, 3))
        weights = {
            kind: rng.beta(alpha, alpha, steps) if alpha > 0 else np.ones(steps)
            for kind, alpha in (("mixup", strengths.mixup[k]), ("cutmix", strengths.cutmix[k]))
        }
        both = strengths.mixup[k] and strengths.cutmix[k]
        is_cutmix = uniform[:, 0] < 0.5 if both else np.full(steps, strengths.cutmix[k] > 0)
        draws[k, :, 0] = np.where(is_cutmix, weights["cutmix"], weights["mixup"])
        draws[k, :, 1] = is_cutmix
        draws[k, :, 2:] = uniform[:, 1:]
    return draws


def mix(
    pixels: Float[Tensor, "K B C H W"], targets: Float[Tensor, "K B classes"], draws: Float[Tensor, "K 4"]
) -> tuple[Float[Tensor, "K B C H W"], Float[Tensor, "K B classes"]]:
    """Mixes each image and target with its mirror place in the batch, by mixup or cutmix (as timm does in batch mode)."""
    weight, is_cutmix = draws[:, 0], draws[:, 1] > 0.5
    height, width = pixels.shape[-2:]
    side = (1 - weight).sqrt()
    top, left = draws[:, 2] * height - side * height / 2, draws[:, 3] * width - side * width / 2
    inside = _box(pixels, top, left, side * height, side * width)
    kept_by_cutmix = 1 - inside.float().mean((-3, -2, -1))
    share = torch.where(is_cutmix, kept_by_cutmix, weight)
    keep = torch.where(is_cutmix[:, None, None, None], 1 - inside.float(), weight[:, None, None, None]).unsqueeze(1)
    mixed = keep * pixels + (1 - keep) * pixels.flip(1)
    share = share[:, None, None]
    return mixed, share * targets + (1 - share) * targets.flip(1)
