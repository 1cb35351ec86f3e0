"""Training of the model encoder: what a model does is read off what it is.

A latent vector has to say some things about its checkpoint: its invariants (reconstruction); what it answers to training images
(behaviour): the divergence KL(answers of the model || answers read off the latent vector); what these answers come to in all
(summary): how often and how surely they are those that the train models give on average; and how fast each tensor is moving
(forecast): the way from the checkpoint before and to the one after (`wsl.data.update_norms`), as a video model is asked for the
frames beside the one it sees. Neighbours and answers are needed in training alone: a checkpoint is embedded by its weights and
its root's. No label, epoch number, factor or metric is read. All heads are linear, so that linear probes find what they found.

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

from wsl.models.invariant_encoder import CHANGE, DIRECTIONS, InvariantEncoder
from wsl.training.heads import Heads, classes_first, divergence_of
from wsl.training.targets import PretrainingTargets, complete, scaled_summaries
from zoo_gen import InputError, Zoo
from zoo_gen.splits import Split


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """A model encoder and how it is trained.

    Attributes:
        encoder: sizes of `InvariantEncoder`.
        behaviour, summary, reconstruction, forecast: weights of the losses; 0 leaves one out. The forecast is asked of members that
            read updates alone: the others would learn it by heart.
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
        InvariantEncoder([f"{CHANGE}a/{DIRECTIONS[0]}"], **self.encoder)
        if min(self.images, self.steps, self.batch_size) < 1 or not self.learning_rate > 0:
            raise InputError("images, steps, batch_size and learning_rate of a model encoder must be more than 0")
        weights = (self.behaviour, self.summary, self.reconstruction, self.forecast)
        if min(weights) < 0 or sum(weights) == 0:
            raise InputError(
                "behaviour, summary, reconstruction and forecast of a model encoder must be at least 0, and one of them more"
            )
        if self.forecast and not self.encoder["updates"]:
            raise InputError("forecast is asked of members that read updates; set encoder.updates to at least 1, or forecast to 0")

    def fit(
        self, zoos: Sequence[tuple[Zoo, Split[Zoo]]], *, seed: int, console: Console, device: torch.device
    ) -> tuple[InvariantEncoder, dict[str, float]]:
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
            `forecast_error` of standardised update_norms (1: the mean) and `summary_error` of standardised summaries, if they are asked.

        Raises:
            InputError: no train checkpoint has finite weights, or the training diverged.
        """
        first = zoos[0][0]
        images = first.images("finetune")
        described = [PretrainingTargets.of(zoo, images, self.images, card=first.image_card("finetune")) for zoo, _ in zoos]
        train = PretrainingTargets.joined(
            [known.part(split.train.frame["path"]) for known, (_, split) in zip(described, zoos, strict=True)]
        )
        val = described[0].part(zoos[0][1].val.frame["path"])
        if not len(train.invariants):
            raise InputError("no train checkpoint has finite weights; look at the status column of the zoo's index")
        average = train.answers[complete(train.answers)].exp().mean(0)
        val, train = val.scaled(train), train.scaled(train)
        summaries, val_summaries = scaled_summaries(train.answers, val.answers, average=average)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = InvariantEncoder(list(train.invariants.columns), **self.encoder)
            encoder.fit_scales(train.values(encoder))
            asked = summaries.shape[1] if self.summary else 0
            heads = Heads(encoder, answers=train.answers[0].numel(), update_norms=train.update_norms.shape[1], summaries=asked)
            self._train(encoder.to(device), heads.to(device), train, summaries, console, device)
        encoder, heads = encoder.cpu().eval(), heads.cpu().eval()
        with torch.no_grad():
            member_embeddings = encoder.member_embeddings(inputs := encoder.standardize(val.values(encoder)))
            mean = average.log()
            found = {
                "divergence": heads.divergence(member_embeddings, val.answers).item(),
                "divergence_of_mean": divergence_of(classes_first(mean.expand_as(val.answers)), classes_first(val.answers)).item(),
                "error": heads.error(member_embeddings, inputs).item(),
                "forecast_error": heads.forecast_error(member_embeddings, val.update_norms).item(),
            }
            if self.summary:
                found["summary_error"] = heads.summary_error(member_embeddings, val_summaries).item()
        return encoder, found

    def _train(
        self,
        encoder: InvariantEncoder,
        heads: Heads,
        train: PretrainingTargets,
        summaries: Float[Tensor, "N S"],
        console: Console,
        device: torch.device,
    ) -> None:
        optimizer = torch.optim.AdamW(
            [*encoder.parameters(), *heads.parameters()], lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=self.steps + 1)
        inputs = encoder.standardize(train.values(encoder).to(device))
        answers, update_norms, summaries = train.answers.to(device), train.update_norms.to(device), summaries.to(device)
        for _ in track(range(self.steps), "model encoder", console=console, transient=True, disable=not console.is_terminal):
            rows = torch.randint(len(inputs), (self.batch_size,)).to(device)
            seen = inputs[rows]
            member_embeddings = encoder.member_embeddings(seen + self.noise * torch.randn_like(seen))
            loss = self.behaviour * heads.divergence(member_embeddings, answers[rows]) + self.reconstruction * heads.error(
                member_embeddings, seen
            )
            if self.forecast:
                loss = loss + self.forecast * heads.forecast_error(member_embeddings, update_norms[rows])
            if self.summary:
                loss = loss + self.summary * heads.summary_error(member_embeddings, summaries[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if not all(parameter.isfinite().all() for parameter in encoder.parameters()):
            raise InputError(f"the model encoder diverged; use a smaller learning_rate (now {self.learning_rate:g})")
