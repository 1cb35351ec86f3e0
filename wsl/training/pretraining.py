"""Training of the model encoder: what a model does is read off what it is.

A latent vector has to say some things about its checkpoint: its invariants (reconstruction); what it answers to training images
(behaviour): the divergence KL(answers of the model || answers read off the latent vector); what these answers come to in all
(summary): how often and how surely they are those that the train models give on average; and how fast each tensor is moving
(forecast): the way from the checkpoint before and to the one after (`wsl.data.update_norms`), as a video model is asked for the
frames beside the one it sees. Neighbours and answers are needed in training alone: a checkpoint is embedded by its weights and
its root's. No label, epoch number, factor or metric is read. All readings are linear, so that linear probes find what they found.

None of this needs labels or results, so models of further zoos may be learned from beside those of the zoo in question: from
many roots an encoder learns what it need not be told about the next one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from torch import Tensor

from wsl.models.invariant_encoder import CHANGE, HEADINGS, ModelEncoder
from wsl.training.heads import Readers, classes_first, divergence_of
from wsl.training.targets import Known, complete, scaled_summaries
from zoo_gen import InputError, Zoo
from zoo_gen.splits import Split


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
        average = train.answers[complete(train.answers)].exp().mean(0)
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
                "divergence_of_mean": divergence_of(classes_first(mean.expand_as(val.answers)), classes_first(val.answers)).item(),
                "error": readers.error(shares, inputs).item(),
                "forecast_error": readers.forecast_error(shares, val.ways).item(),
            }
            if self.summary:
                found["summary_error"] = readers.summary_error(shares, val_summaries).item()
        return encoder, found

    def _train(
        self,
        encoder: ModelEncoder,
        readers: Readers,
        train: Known,
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
