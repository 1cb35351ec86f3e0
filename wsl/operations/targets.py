"""Targets: what models are to predict on some images: labels, the mean of an ensemble, or a mixture of teachers for each model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from wsl.operations.models import State, check_images, check_states, shapes_of
from zoo_gen.errors import InputError
from zoo_gen.evaluate import logits
from zoo_gen.wording import counted


@dataclass(frozen=True)
class Targets:
    """Mixtures of predictions: model k is to predict the sum over e of shares[k, e] * predictions[e].

    Attributes:
        predictions: probabilities of E sources on N images.
        shares: of the sources, for each model, or one row that serves all.
        teachers: probabilities of models whose agreement tells how much predictions may agree; none where there are no teachers.
    """

    predictions: Float[Tensor, "E N classes"]
    shares: Float[Tensor, "K E"]
    teachers: Float[Tensor, "E2 N classes"]

    def __post_init__(self) -> None:
        """Raises `InputError` for what are no probabilities or no mixtures of them."""
        for what, values in (("predictions", self.predictions), ("shares", self.shares), ("teachers", self.teachers)):
            if bool((values < 0).any()) or not torch.allclose(values.sum(-1), torch.ones(()).to(values), atol=1e-4):
                raise InputError(f"{what} of targets must be probabilities, at least 0 with a sum of 1 in each row; check for NaN")
        if self.shares.shape[-1] != len(self.predictions):
            counts = counted(self.shares.shape[-1], "share"), counted(len(self.predictions), "source")
            raise InputError(f"targets mix {counts[1]} by {counts[0]} for each model; pass as many shares as sources")

    @classmethod
    def labels(cls, labels: Int[Tensor, "N"], classes: int, *, teachers: Float[Tensor, "E N classes"] | None = None) -> "Targets":
        """The true classes. Teachers only tell how much predictions may agree (`wsl.operations.refine`)."""
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise InputError(f"labels go from {labels.min()} to {labels.max()}, and models have {counted(classes, 'class')}")
        one_hot = functional.one_hot(labels, classes).float().unsqueeze(0)
        return cls(one_hot, torch.ones(1, 1), one_hot[:0] if teachers is None else teachers)

    @classmethod
    def ensemble(cls, teachers: Float[Tensor, "E N classes"]) -> "Targets":
        """The mean prediction of teachers. Raises `InputError` where there are none."""
        if not len(teachers):
            raise InputError("an ensemble of no teachers predicts nothing; pass predictions of at least one")
        return cls(teachers, torch.full((1, len(teachers)), 1 / len(teachers)), teachers)

    @classmethod
    def mixtures(cls, teachers: Float[Tensor, "E N classes"], shares: Shaped[Tensor | np.ndarray, "K E"]) -> "Targets":
        """A mixture of teachers for each of K models."""
        return cls(teachers, torch.as_tensor(shares).to(teachers), teachers)

    @property
    def images(self) -> int:
        """Number of images."""
        return self.predictions.shape[1]

    def of(self, models: slice, images: Int[Tensor, "B"] | None = None) -> Float[Tensor, "k B classes"]:
        """Targets of some models on some images, or on all; one row, k = 1, where all models have the same."""
        shares = self.shares if len(self.shares) == 1 else self.shares[models]
        return torch.einsum("ke,enc->knc", shares, self.predictions if images is None else self.predictions[:, images])

    def check(self, models: int, images: int, classes: int) -> None:
        """Raises `InputError` unless these are targets of so many models on so many images of so many classes."""
        if len(self.shares) not in (1, models):
            raise InputError(f"targets are of {counted(len(self.shares), 'model')}, not of {models}; pass one row for each, or one")
        if self.predictions.shape[1:] != (images, classes):
            found = counted(self.images, "image"), counted(self.predictions.shape[-1], "class")
            raise InputError(
                f"targets are of {found[0]} and {found[1]}, not of {images} and {classes}; pass those of the same images"
            )


def predictions(
    architecture: Mapping[str, Any], teachers: Sequence[State], pixels: Float[Tensor, "N C H W"]
) -> Float[Tensor, "E N classes"]:
    """Returns the probabilities that models of one architecture predict: teachers.

    Teachers of several architectures are joined by `torch.cat`. Raises `InputError` where there are no teachers or no images, and
    for weights that do not fit or are not finite.
    """
    check_states(teachers, shapes_of(architecture), "teacher")
    check_images(pixels, teachers)
    return logits(architecture, teachers, pixels).softmax(-1)
