"""Corruptions of images: noise, blur, shift and contrast at several strengths.

They act on images as a zoo has them, that is normalised: the unit of noise is the standard deviation of the training images.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from zoo_gen.errors import InputError

Pixels = Float[Tensor, "N C H W"]


def noise(pixels: Pixels, strength: float) -> Pixels:
    """Adds normal noise of a standard deviation, the same on every call."""
    return pixels + strength * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0)).to(pixels)


def blur(pixels: Pixels, strength: float) -> Pixels:
    """Blurs by a Gaussian whose standard deviation is in 32nds of the height; edges are repeated."""
    sigma = strength * pixels.shape[-2] / 32
    reach = min(max(1, round(3 * sigma)), min(pixels.shape[-2:]) - 1)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1).to(pixels) / sigma) ** 2)
    kernel, channels = (kernel / kernel.sum()).view(1, 1, 1, -1), pixels.shape[1]
    for turned in (kernel, kernel.mT):
        sides = (reach, reach, 0, 0) if turned is kernel else (0, 0, reach, reach)
        padded = functional.pad(pixels, sides, mode="replicate")
        pixels = functional.conv2d(padded, turned.expand(channels, -1, -1, -1), groups=channels)
    return pixels


def shift(pixels: Pixels, strength: float) -> Pixels:
    """Moves images to the right and down by this share of their height, at least one pixel; edges are repeated."""
    step = max(1, round(strength * pixels.shape[-2]))
    height, width = pixels.shape[-2:]
    return functional.pad(pixels, (step, 0, step, 0), mode="replicate")[..., :height, :width]


def contrast(pixels: Pixels, strength: float) -> Pixels:
    """Takes this share of the contrast away: pixels move towards the mean of their image."""
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (1 - strength) * (pixels - mean)


CORRUPTIONS: dict[str, Callable[[Pixels, float], Pixels]] = {"noise": noise, "blur": blur, "shift": shift, "contrast": contrast}


def corrupted(pixels: Pixels, kind: str, strength: float) -> Pixels:
    """Corrupts images; a strength of 0 leaves them as they are. Raises `InputError` for an unknown kind or a negative strength."""
    if kind not in CORRUPTIONS:
        raise InputError(f"there is no corruption {kind!r}; choose among {', '.join(CORRUPTIONS)}")
    if not 0 <= strength < float("inf"):
        raise InputError(f"the strength of {kind} is {strength}; choose a finite number of at least 0")
    return CORRUPTIONS[kind](pixels, strength) if strength else pixels


def check_strengths(corruptions: dict[str, Sequence[float]]) -> None:
    """Raises `InputError` for kinds or strengths that are none."""
    for kind, strengths in corruptions.items():
        for strength in strengths:
            corrupted(torch.zeros(1, 1, 8, 8), kind, strength)
