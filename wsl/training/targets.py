"""Targets that an encoder of invariants is pre-trained on: the invariants themselves, predictions on images, update norms."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from wsl.data.cache import cached
from wsl.data.invariants import invariants_of
from wsl.data.logits import lack_to_run, run_models
from wsl.data.update_norms import update_norms_of
from zoo_gen import Zoo

_RARE = 30.0
"""Log-probabilities below minus this are as good as impossible."""


@dataclass(frozen=True)
class Evaluated:
    """Images that models are evaluated on, with their card and the number of their classes."""

    pixels: Float[Tensor, "I C H W"]
    card: Mapping[str, Any]
    classes: int

    @classmethod
    def of(cls, zoo: Zoo, count: int) -> "Evaluated":
        """Returns the first of a zoo's training images."""
        images = zoo.images("finetune")
        return cls(images.train.pixels[:count], zoo.image_card("finetune"), images.num_classes)

    def are_of(self, zoo: Zoo) -> bool:
        """Tells whether the models of a zoo were trained on the same images; others have other classes."""
        return not lack_to_run(zoo) and _same_images(zoo.image_card("finetune"), self.card)


@dataclass(frozen=True)
class PretrainingTargets:
    """Checkpoints by path: invariants, log-probabilities of classes on training images, and update norms (NaN: unknown).

    A checkpoint whose weights are not finite, or whose logits are not where it was evaluated, has no invariants.
    """

    invariants: pd.DataFrame
    log_probabilities: Float[Tensor, "N I classes"]
    update_norms: pd.DataFrame

    @classmethod
    def of(cls, zoo: Zoo, evaluated: Evaluated | None) -> "PretrainingTargets":
        """Computes the targets of the fine-tuned checkpoints of a zoo, or finds them in the cache.

        Args:
            zoo: the zoo.
            evaluated: what models are evaluated on, if they were trained on these images; None for nothing.
        """
        checkpoints = zoo.select(stage="finetune")
        invariants, update_norms = (
            table.set_axis(checkpoints.frame["path"]) for table in (invariants_of(checkpoints), update_norms_of(checkpoints))
        )
        if evaluated is None or not evaluated.are_of(zoo):
            shape = (1, 1) if evaluated is None else (len(evaluated.pixels), evaluated.classes)
            return cls(invariants, torch.full((len(checkpoints), *shape), torch.nan), update_norms)
        log_probabilities = functional.log_softmax(_logits(checkpoints, evaluated.pixels), dim=-1).clamp(min=-_RARE)
        known = np.broadcast_to(known_rows(log_probabilities).numpy()[:, None], invariants.shape)
        return cls(invariants.where(known), log_probabilities, update_norms)

    @classmethod
    def joined(cls, some: "Sequence[PretrainingTargets]") -> "PretrainingTargets":
        """Returns the targets of several zoos as one; columns that a zoo lacks are NaN, and not present."""
        invariants = pd.concat([one.invariants for one in some])
        known, flags = invariants.notna().any(axis=1), [name for name in invariants if str(name).endswith("/present")]
        invariants.loc[known, flags] = invariants.loc[known, flags].fillna(0.0)
        log_probabilities, update_norms = [one.log_probabilities for one in some], [one.update_norms for one in some]
        return cls(invariants, torch.cat(log_probabilities), pd.concat(update_norms))

    def of_paths(self, paths: pd.Series) -> "PretrainingTargets":
        """Returns the targets of the checkpoints at some paths that have invariants."""
        finite = self.invariants.notna().any(axis=1).to_numpy()
        rows = np.flatnonzero(self.invariants.index.isin(paths.tolist()) & finite)
        selected = self.log_probabilities[torch.from_numpy(rows)]
        return PretrainingTargets(self.invariants.iloc[rows], selected, self.update_norms.iloc[rows])

    def scaled(self, by: "PretrainingTargets") -> "PretrainingTargets":
        """Returns the same with update norms standardised by others; those of a tensor that never moves there are NaN."""
        deviation = by.update_norms.std(ddof=0)
        centred = self.update_norms.reindex(columns=by.update_norms.columns) - by.update_norms.mean()
        return replace(self, update_norms=centred / deviation.where(deviation > 1e-6))

    def update_norm_values(self) -> Float[Tensor, "N P"]:
        """Returns the update norms as a tensor."""
        return torch.from_numpy(self.update_norms.to_numpy(dtype=np.float32, copy=True))


def _same_images(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tells whether two cards are of the same images and classes, however these are split and read."""
    how = ("seed", "fractions", "images", "memory_gb", "workers")
    return {key: one[key] for key in one if key not in how} == {key: other[key] for key in other if key not in how}


def _logits(checkpoints: Zoo, pixels: Float[Tensor, "I C H W"]) -> Float[Tensor, "N I classes"]:
    """Returns the logits of checkpoints, from the cache if they are there; minus infinity where a model has fewer classes."""

    def compute() -> pd.DataFrame:
        logits = run_models(checkpoints, pixels)
        columns = [f"{image}/{label}" for image in range(logits.shape[1]) for label in range(logits.shape[2])]
        return pd.DataFrame(rearrange(logits, "n i c -> n (i c)"), columns=columns)

    table = cached(run_models, checkpoints, compute, state=[hashlib.sha256(pixels.numpy().tobytes()).hexdigest()])
    logits = torch.from_numpy(table.to_numpy(np.float32, copy=True)).nan_to_num(nan=-torch.inf)
    return rearrange(logits, "n (i c) -> n i c", i=len(pixels))


SUMMARIES = ("agreement", "probability", "cross-entropy", "log cross-entropy", "entropy", "confidence")
"""What `summaries_of` computes, the mean over images each."""


def summaries_of(log_probabilities: Float[Tensor, "N I classes"], average: Float[Tensor, "I classes"]) -> Float[Tensor, "N S"]:
    """Sums up the predictions of checkpoints beside those of models on average; no label is read.

    Args:
        log_probabilities: of classes.
        average: probabilities, the mean over some models.

    Returns:
        `SUMMARIES`: how often the likeliest class is that of the average, and the probability that it is given; the cross-entropy
        to the average, in nats, and its logarithm; the entropy; the probability of the likeliest class.
    """
    given, usual = log_probabilities.exp(), average.argmax(-1)
    agreement = (given.argmax(-1) == usual).float().mean(1)
    probability = given.gather(-1, usual.expand(len(given), -1).unsqueeze(-1)).squeeze(-1).mean(1)
    cross = -(average * log_probabilities).sum(-1).mean(1)
    entropy = -(given * log_probabilities).sum(-1).mean(1)
    found = (agreement, probability, cross, cross.clamp(min=1e-3).log(), entropy, given.amax(-1).mean(1))
    return torch.stack(found, dim=1).where(known_rows(log_probabilities)[:, None], torch.nan)


def scaled_summaries(
    train: Float[Tensor, "N I classes"], *others: Float[Tensor, "M I classes"], average: Float[Tensor, "I classes"]
) -> list[Float[Tensor, "N S"]]:
    """Returns the summaries of train models and of others, standardised by those of the train models; NaN: unknown."""
    found = [summaries_of(some, average) for some in (train, *others)]
    known = found[0][known_rows(train)]
    deviation = known.std(0, correction=0)
    return [(some - known.mean(0)) / deviation.where(deviation > 1e-6, torch.inf) for some in found]


def known_rows(log_probabilities: Float[Tensor, "N I classes"]) -> Bool[Tensor, "N"]:
    """Tells which checkpoints were evaluated, with finite results."""
    return log_probabilities.isfinite().flatten(1).all(1)
