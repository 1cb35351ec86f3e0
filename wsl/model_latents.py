"""Training of the model encoder: what a model does is read off what it is.

A latent vector has to say two things about its checkpoint: its invariants (reconstruction), and what it answers to training
images (behaviour): the divergence KL(answers of the model || answers read off the latent vector). Answers are predicted from
weights: no model runs when a checkpoint is embedded. Both readings are linear, so that linear probes find what they found.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

from wsl.answers import run_models
from wsl.cache import cached
from wsl.invariants import invariants_of
from wsl.models.model_encoder import ModelEncoder
from zoo_gen import InputError, Zoo
from zoo_gen.splits import Split


@dataclass(frozen=True, kw_only=True)
class ModelLatents:
    """A model encoder and how it is trained.

    Attributes:
        encoder: sizes of `ModelEncoder`.
        behaviour, reconstruction: weights of the two losses; 0 leaves one out.
        images: training images that answers are asked to.
        noise: deviation of the noise on standardised invariants.
        steps, batch_size, learning_rate, weight_decay: of AdamW, with one cycle of the learning rate.
    """

    encoder: dict[str, Any]
    behaviour: float
    reconstruction: float
    images: int
    noise: float
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float

    def __post_init__(self) -> None:
        """Raises `InputError` for numbers that nothing can be trained with."""
        ModelEncoder(["change of a/b"], **self.encoder)
        if min(self.images, self.steps, self.batch_size) < 1 or not self.learning_rate > 0:
            raise InputError("images, steps, batch_size and learning_rate of a model encoder must be more than 0")
        if min(self.behaviour, self.reconstruction) < 0 or self.behaviour + self.reconstruction == 0:
            raise InputError("behaviour and reconstruction of a model encoder must be at least 0, and one of them more")

    def fit(
        self, zoo: Zoo, split: Split[Zoo], *, seed: int, console: Console, device: torch.device
    ) -> tuple[ModelEncoder, dict[str, float]]:
        """Trains an encoder on the train models of a split of a zoo.

        Returns:
            The encoder, in eval mode on the CPU, and what it reaches on the val models: `divergence` (nats per image),
            `divergence_of_mean` (of the mean answer of the train models), `error` of standardised invariants (1: the mean).

        Raises:
            InputError: no train checkpoint has finite weights, or the training diverged.
        """
        described = Known.of(zoo.select(stage="finetune"), self.images)
        train, val = (described.part(part.frame["path"]) for part in (split.train, split.val))
        if not len(train.invariants):
            raise InputError("no train checkpoint has finite weights; look at the status column of the zoo's index")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = ModelEncoder(list(train.invariants.columns), **self.encoder)
            encoder.fit_scales(train.values(encoder))
            readers = Readers(encoder, answers=train.answers[0].numel())
            self._train(encoder.to(device), readers.to(device), train, console, device)
        encoder, readers = encoder.cpu().eval(), readers.cpu().eval()
        with torch.no_grad():
            shares = encoder.shares(inputs := encoder.standardize(val.values(encoder)))
            found = {
                "divergence": readers.divergence(shares, val.answers).item(),
                "divergence_of_mean": _divergence(train.answers.exp().mean(0).log().expand_as(val.answers), val.answers).item(),
                "error": readers.error(shares, inputs).item(),
            }
        return encoder, found

    def _train(self, encoder: ModelEncoder, readers: "Readers", train: "Known", console: Console, device: torch.device) -> None:
        optimizer = torch.optim.AdamW(
            [*encoder.parameters(), *readers.parameters()], lr=self.learning_rate, weight_decay=self.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=self.steps + 1)
        inputs, answers = encoder.standardize(train.values(encoder).to(device)), train.answers.to(device)
        for _ in track(range(self.steps), "model encoder", console=console, transient=True, disable=not console.is_terminal):
            rows = torch.randint(len(inputs), (self.batch_size,)).to(device)
            seen = inputs[rows]
            shares = encoder.shares(seen + self.noise * torch.randn_like(seen))
            loss = self.behaviour * readers.divergence(shares, answers[rows]) + self.reconstruction * readers.error(shares, seen)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if not all(parameter.isfinite().all() for parameter in encoder.parameters()):
            raise InputError(f"the model encoder diverged; use a smaller learning_rate (now {self.learning_rate:g})")


@dataclass(frozen=True)
class Known:
    """Checkpoints by path: their invariants, and log-probabilities of their answers to training images."""

    invariants: pd.DataFrame
    answers: Float[Tensor, "N I classes"]

    @classmethod
    def of(cls, checkpoints: Zoo, images: int) -> "Known":
        """Describes checkpoints and runs them on the first training images, or finds both in the cache."""
        pixels = checkpoints.images("finetune").train.pixels[:images]

        def compute() -> pd.DataFrame:
            logits = run_models(checkpoints, pixels)
            columns = [f"{image}/{label}" for image in range(logits.shape[1]) for label in range(logits.shape[2])]
            return pd.DataFrame(rearrange(logits, "n i c -> n (i c)"), columns=columns)

        table = cached(run_models, checkpoints, compute, state=["training images", str(len(pixels))])
        logits = rearrange(torch.from_numpy(table.to_numpy(np.float32, copy=True)), "n (i c) -> n i c", i=len(pixels))
        answers = functional.log_softmax(logits.nan_to_num(nan=-torch.inf), dim=-1).clamp(min=-_RARE)
        return cls(invariants_of(checkpoints).set_axis(checkpoints.frame["path"]), answers)

    def part(self, paths: pd.Series) -> "Known":
        """Those of some paths whose weights and answers are finite."""
        finite = self.invariants.notna().any(axis=1).to_numpy() & self.answers.isfinite().all(-1).all(-1).numpy()
        rows = np.flatnonzero(self.invariants.index.isin(paths.tolist()) & finite)
        return Known(self.invariants.iloc[rows], self.answers[torch.from_numpy(rows)])

    def values(self, encoder: ModelEncoder) -> Float[Tensor, "N C"]:
        """The columns that an encoder reads."""
        return torch.from_numpy(self.invariants.reindex(columns=encoder.columns).to_numpy(dtype="float64", copy=True))


_RARE = 30.0
"""Log-probabilities below minus this are as good as impossible."""


class Readers(nn.Module):
    """Linear readings of each member's share: the invariants that it was made of, and the answers of the model."""

    def __init__(self, encoder: ModelEncoder, *, answers: int):
        super().__init__()
        self.reads = encoder.reads
        self.invariants = nn.ModuleList(nn.Linear(encoder.latent, len(reads)) for reads in self.reads)
        self.answers = nn.ModuleList(nn.Sequential(nn.Dropout(0.1), nn.Linear(encoder.latent, answers)) for _ in self.reads)

    def error(self, shares: list[Tensor], inputs: Float[Tensor, "N C"]) -> Float[Tensor, ""]:
        """Mean squared error of the invariants, the mean over members."""
        errors = [
            (reader(share) - inputs[:, reads]).square().mean()
            for share, reader, reads in zip(shares, self.invariants, self.reads, strict=True)
        ]
        return torch.stack(errors).mean()

    def divergence(self, shares: list[Tensor], answers: Float[Tensor, "N I classes"]) -> Float[Tensor, ""]:
        """Divergence of the answers that are read off the shares from the true ones, the mean over members."""
        found = []
        for share, reader in zip(shares, self.answers, strict=True):
            read = rearrange(reader(share), "n (i c) -> n i c", c=answers.shape[-1])
            found.append(_divergence(functional.log_softmax(read, dim=-1), answers))
        return torch.stack(found).mean()


def _divergence(read: Float[Tensor, "N I classes"], true: Float[Tensor, "N I classes"]) -> Float[Tensor, ""]:
    """KL(true || read) in nats, the mean over checkpoints and images."""
    return (true.exp() * (true - read)).sum(-1).mean()
