"""What is known of checkpoints that a model encoder learns from: numbers of their weights, their answers, and how fast they go."""

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
from wsl.data.logits import run_models
from wsl.data.update_norms import paces_of
from wsl.models.invariant_encoder import ModelEncoder
from zoo_gen import Zoo
from zoo_gen.images import Images

_RARE = 30.0
"""Log-probabilities below minus this are as good as impossible."""


@dataclass(frozen=True)
class Known:
    """Checkpoints by path: their invariants, log-probabilities of their answers to training images, and ways (NaN: unknown).

    A checkpoint whose weights, or whose answers where it was asked, are not finite has no invariants.
    """

    invariants: pd.DataFrame
    answers: Float[Tensor, "N I classes"]
    paces: pd.DataFrame

    @classmethod
    def of(cls, zoo: Zoo, images: Images, count: int, *, card: Mapping[str, Any]) -> "Known":
        """Describes the fine-tuned checkpoints of a zoo and asks them the first training images, or finds both in the cache.

        Args:
            zoo: whose models are described.
            images: whose training images are asked.
            count: how many of them.
            card: of the images. Models that were trained on others are not asked: their classes are no answers.
        """
        checkpoints, pixels = zoo.select(stage="finetune"), images.train.pixels[:count]
        invariants, ways = (
            table.set_axis(checkpoints.frame["path"]) for table in (invariants_of(checkpoints), paces_of(checkpoints))
        )
        if not _same_images(zoo.image_card("finetune"), card):
            return cls(invariants, torch.full((len(checkpoints), len(pixels), images.num_classes), torch.nan), ways)
        answers = functional.log_softmax(_asked(checkpoints, pixels), dim=-1).clamp(min=-_RARE)
        known = np.broadcast_to(complete(answers).numpy()[:, None], invariants.shape)
        return cls(invariants.where(known), answers, ways)

    @classmethod
    def joined(cls, some: "Sequence[Known]") -> "Known":
        """Several as one; what one has no column of is unknown of it, and not present."""
        invariants = pd.concat([known.invariants for known in some])
        known, flags = invariants.notna().any(axis=1), [name for name in invariants if str(name).endswith("/present")]
        invariants.loc[known, flags] = invariants.loc[known, flags].fillna(0.0)
        return cls(invariants, torch.cat([known.answers for known in some]), pd.concat([known.paces for known in some]))

    def part(self, paths: pd.Series) -> "Known":
        """Those of some paths that have invariants."""
        finite = self.invariants.notna().any(axis=1).to_numpy()
        rows = np.flatnonzero(self.invariants.index.isin(paths.tolist()) & finite)
        return Known(self.invariants.iloc[rows], self.answers[torch.from_numpy(rows)], self.paces.iloc[rows])

    def scaled(self, by: "Known") -> "Known":
        """The same with ways as deviations from the mean of others; those of a tensor that never moves there are unknown."""
        deviation = by.paces.std(ddof=0)
        ways = self.paces.reindex(columns=by.paces.columns) - by.paces.mean()
        return replace(self, paces=ways / deviation.where(deviation > 1e-6))

    def values(self, encoder: ModelEncoder) -> Float[Tensor, "N C"]:
        """The columns that an encoder reads."""
        return torch.from_numpy(self.invariants.reindex(columns=encoder.columns).to_numpy(dtype="float64", copy=True))

    @property
    def ways(self) -> Float[Tensor, "N P"]:
        """The ways as a tensor."""
        return torch.from_numpy(self.paces.to_numpy(dtype=np.float32, copy=True))


def _same_images(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two cards are of the same images and classes, however these are split and read."""
    how = ("seed", "fractions", "images", "memory_gb", "workers")
    return {key: one[key] for key in one if key not in how} == {key: other[key] for key in other if key not in how}


def _asked(checkpoints: Zoo, pixels: Float[Tensor, "I C H W"]) -> Float[Tensor, "N I classes"]:
    """Logits of checkpoints, or those in the cache; minus infinity where a model has fewer classes."""

    def compute() -> pd.DataFrame:
        logits = run_models(checkpoints, pixels)
        columns = [f"{image}/{label}" for image in range(logits.shape[1]) for label in range(logits.shape[2])]
        return pd.DataFrame(rearrange(logits, "n i c -> n (i c)"), columns=columns)

    asked = hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
    table = cached(run_models, checkpoints, compute, state=[asked])
    logits = torch.from_numpy(table.to_numpy(np.float32, copy=True)).nan_to_num(nan=-torch.inf)
    return rearrange(logits, "n (i c) -> n i c", i=len(pixels))


SUMMARIES = ("agreement", "probability", "cross-entropy", "log cross-entropy", "entropy", "confidence")
"""What `summaries_of` says of a checkpoint's answers, the mean over images each."""


def summaries_of(answers: Float[Tensor, "N I classes"], average: Float[Tensor, "I classes"]) -> Float[Tensor, "N S"]:
    """What answers come to in all, beside those that models give on average; no label is read.

    Args:
        answers: log-probabilities.
        average: probabilities, the mean over some models.

    Returns:
        `SUMMARIES`: how often the likeliest class is that of the average, and the probability that it is given; the cross-entropy
        to the average, in nats, and its logarithm; the entropy; the probability of the likeliest class.
    """
    given, usual = answers.exp(), average.argmax(-1)
    agreement = (given.argmax(-1) == usual).float().mean(1)
    probability = given.gather(-1, usual.expand(len(given), -1).unsqueeze(-1)).squeeze(-1).mean(1)
    cross = -(average * answers).sum(-1).mean(1)
    entropy = -(given * answers).sum(-1).mean(1)
    found = (agreement, probability, cross, cross.clamp(min=1e-3).log(), entropy, given.amax(-1).mean(1))
    return torch.stack(found, dim=1).where(complete(answers)[:, None], torch.nan)


def scaled_summaries(
    train: Float[Tensor, "N I classes"], *others: Float[Tensor, "M I classes"], average: Float[Tensor, "I classes"]
) -> list[Float[Tensor, "N S"]]:
    """Summaries of train models' answers and of others', as deviations from the mean of those of the train models; NaN: unknown."""
    found = [summaries_of(answers, average) for answers in (train, *others)]
    known = found[0][complete(train)]
    deviation = known.std(0, correction=0)
    return [(some - known.mean(0)) / deviation.where(deviation > 1e-6, torch.inf) for some in found]


def complete(answers: Float[Tensor, "N I classes"]) -> Bool[Tensor, "N"]:
    """Which checkpoints' answers are known."""
    return answers.isfinite().flatten(1).all(1)
