"""Training of the model encoder: what a model does is read off what it is.

A latent vector has to say some things about its checkpoint: its invariants (reconstruction); what it answers to training images
(behaviour): the divergence KL(answers of the model || answers read off the latent vector); what these answers come to in all
(summary): how often and how surely they are those that the train models give on average; and how fast each tensor is moving
(forecast): the way from the checkpoint before and to the one after (`wsl.paces`), as a video model is asked for the frames beside
the one it sees. Neighbours and answers are needed in training alone: a checkpoint is embedded by its weights and its root's. No
label, epoch number, factor or metric is read. All readings are linear, so that linear probes find what they found.

None of this needs labels or results, so models of further zoos may be learned from beside those of the zoo in question: from
many roots an encoder learns what it need not be told about the next one.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

from wsl.answers import run_models
from wsl.cache import cached
from wsl.invariants import invariants_of
from wsl.models.model_encoder import CHANGE, HEADINGS, ModelEncoder
from wsl.paces import paces_of
from zoo_gen import InputError, Zoo
from zoo_gen.images import Images
from zoo_gen.splits import Split

Shares = dict[str, Float[Tensor, "E N latent"]]
"""Shares of members in latent vectors, by what the members read."""

_RARE = 30.0
"""Log-probabilities below minus this are as good as impossible."""


@dataclass(frozen=True, kw_only=True)
class ModelLatents:
    """A model encoder and how it is trained.

    Attributes:
        encoder: sizes of `ModelEncoder`.
        behaviour, summary, reconstruction, forecast: weights of the losses; 0 leaves one out. The forecast is asked of members that
            read moves alone: the others would learn it by heart.
        images: training images that answers are asked to.
        noise: deviation of the noise on standardised invariants.
        steps, batch_size, learning_rate, weight_decay: of AdamW, with one cycle of the learning rate.
    """

    encoder: dict[str, Any]
    behaviour: float
    summary: float
    reconstruction: float
    forecast: float
    images: int
    noise: float
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float

    def __post_init__(self) -> None:
        """Raises `InputError` for numbers that nothing can be trained with."""
        ModelEncoder([f"{CHANGE}a/{HEADINGS[0]}"], **self.encoder)
        if min(self.images, self.steps, self.batch_size) < 1 or not self.learning_rate > 0:
            raise InputError("images, steps, batch_size and learning_rate of a model encoder must be more than 0")
        weights = (self.behaviour, self.summary, self.reconstruction, self.forecast)
        if min(weights) < 0 or sum(weights) == 0:
            raise InputError(
                "behaviour, summary, reconstruction and forecast of a model encoder must be at least 0, and one of them more"
            )
        if self.forecast and not self.encoder["moves"]:
            raise InputError("forecast is asked of members that read moves; set encoder.moves to at least 1, or forecast to 0")

    def fit(
        self, zoos: Sequence[tuple[Zoo, Split[Zoo]]], *, seed: int, console: Console, device: torch.device
    ) -> tuple[ModelEncoder, dict[str, float]]:
        """Trains an encoder on the train models of one zoo, or of several.

        Args:
            zoos: each with the split whose train models are learned from. All models are asked the training images of the first
                zoo; those of a zoo of other images are learned from without answers.
            seed: of the encoder's weights and of all draws.
            console: that shows the progress.
            device: to train on.

        Returns:
            The encoder, in eval mode on the CPU, and what it reaches on the first zoo's val models: `divergence` (nats per image),
            `divergence_of_mean` (of the mean answer of the train models), `error` of standardised invariants,
            `forecast_error` of standardised ways (1: the mean) and `summary_error` of standardised summaries, if they are asked.

        Raises:
            InputError: no train checkpoint has finite weights, or the training diverged.
        """
        first = zoos[0][0]
        images = first.images("finetune")
        described = [Known.of(zoo, images, self.images, card=first.image_card("finetune")) for zoo, _ in zoos]
        train = Known.joined([known.part(split.train.frame["path"]) for known, (_, split) in zip(described, zoos, strict=True)])
        val = described[0].part(zoos[0][1].val.frame["path"])
        if not len(train.invariants):
            raise InputError("no train checkpoint has finite weights; look at the status column of the zoo's index")
        average = train.answers[_complete(train.answers)].exp().mean(0)
        val, train = val.scaled(train), train.scaled(train)
        summaries, val_summaries = scaled_summaries(train.answers, val.answers, average=average)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = ModelEncoder(list(train.invariants.columns), **self.encoder)
            encoder.fit_scales(train.values(encoder))
            asked = summaries.shape[1] if self.summary else 0
            readers = Readers(encoder, answers=train.answers[0].numel(), paces=train.ways.shape[1], summaries=asked)
            self._train(encoder.to(device), readers.to(device), train, summaries, console, device)
        encoder, readers = encoder.cpu().eval(), readers.cpu().eval()
        with torch.no_grad():
            shares = encoder.shares(inputs := encoder.standardize(val.values(encoder)))
            mean = average.log()
            found = {
                "divergence": readers.divergence(shares, val.answers).item(),
                "divergence_of_mean": _divergence(_classes_first(mean.expand_as(val.answers)), _classes_first(val.answers)).item(),
                "error": readers.error(shares, inputs).item(),
                "forecast_error": readers.forecast_error(shares, val.ways).item(),
            }
            if self.summary:
                found["summary_error"] = readers.summary_error(shares, val_summaries).item()
        return encoder, found

    def _train(
        self,
        encoder: ModelEncoder,
        readers: "Readers",
        train: "Known",
        summaries: Float[Tensor, "N S"],
        console: Console,
        device: torch.device,
    ) -> None:
        optimizer = torch.optim.AdamW(
            [*encoder.parameters(), *readers.parameters()], lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=self.steps + 1)
        inputs = encoder.standardize(train.values(encoder).to(device))
        answers, paces, summaries = train.answers.to(device), train.ways.to(device), summaries.to(device)
        for _ in track(range(self.steps), "model encoder", console=console, transient=True, disable=not console.is_terminal):
            rows = torch.randint(len(inputs), (self.batch_size,)).to(device)
            seen = inputs[rows]
            shares = encoder.shares(seen + self.noise * torch.randn_like(seen))
            loss = self.behaviour * readers.divergence(shares, answers[rows]) + self.reconstruction * readers.error(shares, seen)
            if self.forecast:
                loss = loss + self.forecast * readers.forecast_error(shares, paces[rows])
            if self.summary:
                loss = loss + self.summary * readers.summary_error(shares, summaries[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if not all(parameter.isfinite().all() for parameter in encoder.parameters()):
            raise InputError(f"the model encoder diverged; use a smaller learning_rate (now {self.learning_rate:g})")


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
        known = np.broadcast_to(_complete(answers).numpy()[:, None], invariants.shape)
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
    table = cached(run_models, checkpoints, compute, state=["training images", asked])
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
    return torch.stack(found, dim=1).where(_complete(answers)[:, None], torch.nan)


def scaled_summaries(
    train: Float[Tensor, "N I classes"], *others: Float[Tensor, "M I classes"], average: Float[Tensor, "I classes"]
) -> list[Float[Tensor, "N S"]]:
    """Summaries of train models' answers and of others', as deviations from the mean of those of the train models; NaN: unknown."""
    found = [summaries_of(answers, average) for answers in (train, *others)]
    known = found[0][_complete(train)]
    deviation = known.std(0, correction=0)
    return [(some - known.mean(0)) / deviation.where(deviation > 1e-6, torch.inf) for some in found]


class Readers(nn.Module):
    """Linear readings of each member's share: invariants that it was made of, answers of the model, summaries of them, and ways."""

    def __init__(self, encoder: ModelEncoder, *, answers: int, paces: int, summaries: int):
        super().__init__()
        self.reads, self.dropout = encoder.reads, nn.Dropout(0.1)

        def readings(outputs: Mapping[str, int]) -> nn.ModuleDict:
            return nn.ModuleDict({name: encoder.members[name].readings(size) for name, size in outputs.items()})  # type: ignore[operator]

        self.invariants = readings({name: len(reads) for name, reads in self.reads.items()})
        self.answers = readings(dict.fromkeys(self.reads, answers))
        self.paces = readings({name: paces for name in self.reads if name == "moves"})
        self.summaries = readings(dict.fromkeys(self.reads, summaries) if summaries else {})

    def error(self, shares: Shares, inputs: Float[Tensor, "N C"]) -> Float[Tensor, ""]:
        """Mean squared error of the invariants, the mean over members."""
        errors = [
            (reader(shares[name]) - inputs[:, self.reads[name]]).square().mean((1, 2)) for name, reader in self.invariants.items()
        ]
        return torch.cat(errors).mean()

    def divergence(self, shares: Shares, answers: Float[Tensor, "N I classes"]) -> Float[Tensor, ""]:
        """Divergence of the answers that are read off the shares from the true ones, the mean over members (0: none is known)."""
        known = _complete(answers)
        true = _classes_first(answers[known])
        found = []
        for name, reader in self.answers.items():
            read = rearrange(reader(self.dropout(shares[name][:, known])), "e n (c i) -> e c n i", c=len(true))
            found.append(_divergence(read.log_softmax(1), true))
        return torch.cat(found).mean() if known.any() else answers.new_zeros(())

    def forecast_error(self, shares: Shares, paces: Float[Tensor, "N P"]) -> Float[Tensor, ""]:
        """Mean squared error of the ways that are known, the mean over the members that are asked; 0 where nobody or nothing is."""
        known = paces.isfinite()
        errors = [(reader(shares[name]) - paces).where(known, 0).square().sum((1, 2)) for name, reader in self.paces.items()]
        return torch.cat([*errors, paces.new_zeros(0 if errors else 1)]).mean() / known.sum().clamp(min=1)

    def summary_error(self, shares: Shares, summaries: Float[Tensor, "N S"]) -> Float[Tensor, ""]:
        """Huber loss of the summaries that are known, the mean over members; 0 where none is."""
        known = summaries.isfinite().all(1)
        if not known.any():
            return summaries.new_zeros(())
        errors = []
        for name, reader in self.summaries.items():
            read = reader(self.dropout(shares[name][:, known]))
            true = summaries[known].expand_as(read)
            errors.append(functional.smooth_l1_loss(read, true, reduction="none").mean((1, 2)))
        return torch.cat(errors).mean()


def _divergence(read: Float[Tensor, "*E classes N I"], true: Float[Tensor, "classes N I"]) -> Float[Tensor, "*E"]:
    """KL(true || read) in nats, the mean over checkpoints and images."""
    return (true.exp() * (true - read)).sum(-3).mean((-2, -1))


def _complete(answers: Float[Tensor, "N I classes"]) -> Bool[Tensor, "N"]:
    """Which checkpoints' answers are known."""
    return answers.isfinite().flatten(1).all(1)


def _classes_first(answers: Float[Tensor, "N I classes"]) -> Float[Tensor, "classes N I"]:
    """Answers as they are compared: classes are few, and softmax is faster over rows than within them."""
    return rearrange(answers, "n i c -> c n i").contiguous()
