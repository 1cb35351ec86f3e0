"""Pre-training of an invariant encoder: its latents learn the function of a model from its weights, without any label.

Four losses, each by linear heads so that linear probes find the same things in the latents:

- reconstruction: squared error of the invariants themselves;
- behaviour: KL divergence of predicted class probabilities on training images from those of the model;
- summary: how often and how surely a model predicts the class that the train models predict on average;
- forecast: the norm of the update of each tensor from the checkpoint before, and to the one after (`wsl.data.update_norms`).

The neighbours of a checkpoint and its logits are needed in training alone: a trained encoder reads the weights of a checkpoint
and of its root. No loss reads a label, an epoch number, a factor or a metric, so models of further zoos may be learned from as
well.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from torch import Tensor

from wsl.data.invariant_inputs import InvariantInputs
from wsl.data.logits import lack_to_run
from wsl.models.invariant_encoder import InvariantEncoder
from wsl.training.heads import Heads, classes_first, divergence_of
from wsl.training.settings import TrainConfig
from wsl.training.targets import Evaluated, PretrainingTargets, known_rows, scaled_summaries
from zoo_gen import InputError, Zoo
from zoo_gen.finite import all_finite
from zoo_gen.splits import Split


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """The objective of an invariant encoder: weights of the four losses, 0 leaves one out.

    Attributes:
        behaviour, summary, reconstruction, forecast: the weights. The forecast is made by members that read updates alone: other
            members would memorise it.
        images: training images that models are evaluated on.
        noise: deviation of the noise on standardised invariants.
    """

    reads: ClassVar[Literal["invariants"]] = "invariants"

    behaviour: float
    summary: float
    reconstruction: float
    forecast: float
    images: int
    noise: float

    def __post_init__(self) -> None:
        """Raises `InputError` for numbers that nothing can be trained with."""
        if self.images < 1:
            raise InputError(f"objective.images must be at least 1, not {self.images}")
        weights = (self.behaviour, self.summary, self.reconstruction, self.forecast)
        if min(weights) < 0 or sum(weights) == 0:
            raise InputError(
                "objective.behaviour, summary, reconstruction and forecast must be at least 0, and one of them more than 0"
            )

    @property
    def runs_models(self) -> bool:
        """Whether models are run on images."""
        return self.behaviour > 0 or self.summary > 0

    @classmethod
    def imageless(cls, card: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the card without losses of predictions."""
        return {**card, "behaviour": 0.0, "summary": 0.0}

    @classmethod
    def rootless(cls, card: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the card without a forecast, which members make that read changes since the root."""
        return {**card, "forecast": 0.0}

    def check(self, model: Mapping[str, Any]) -> None:
        """Raises `InputError` for a model card whose members cannot learn the objective."""
        if self.forecast and not model["updates"]:
            raise InputError(
                "members that read updates make the forecast; set model.updates to at least 1, or objective.forecast=0"
            )


def pretrain(
    config: TrainConfig,
    objective: Pretraining,
    zoos: Sequence[tuple[Zoo, Split[Zoo]]],
    build: Callable[[InvariantInputs], InvariantEncoder],
    *,
    log: Callable[[str, int, Mapping[str, float]], None],
    console: Console,
    device: torch.device,
) -> tuple[InvariantEncoder, InvariantInputs]:
    """Trains an encoder on the train models of one zoo, or of several, by AdamW with one cycle of the learning rate.

    Args:
        config: the settings of AdamW, whose batches are of checkpoints, and the seed of all random numbers.
        objective: the losses.
        zoos: each with the split whose train models are learned from. All models are evaluated on training images of the first
            zoo, if it has images; models of other images are learned from without their logits.
        build: makes the encoder with fresh weights, given the columns that there are.
        log: takes the losses by step, and at the end measurements on the first zoo's val models: `divergence` (nats per image),
            `divergence_of_mean` (of the mean prediction of the train models), `error` of standardised invariants,
            `forecast_error` of standardised update norms (1: the mean) and `summary_error`, each if it is known.
        console: shows the progress.
        device: to train on.

    Returns:
        The encoder, in eval mode on the CPU, and its inputs.

    Raises:
        InputError: no train checkpoint has finite weights, or the training diverged.
    """
    lessons = Lessons.of(zoos, objective, console)
    inputs = InvariantInputs(list(lessons.train.invariants.columns))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder, heads = _trained(config, objective, lessons, inputs, build, log=log, console=console, device=device)
    if not all_finite(encoder.parameters()):
        raise InputError(f"the invariant encoder diverged; use a smaller learning_rate (now {config.learning_rate:g})")
    log("validation", config.steps, _measured(encoder, heads, objective, lessons, inputs))
    return encoder, inputs


@dataclass(frozen=True)
class Lessons:
    """What an encoder learns from the train models, and is measured on of the val models.

    Attributes:
        train, val: their invariants, logits and update norms; val of the first zoo alone.
        summaries, val_summaries: of their predictions; NaN where models are not run.
        average: the mean prediction of the train models; None where models are not run.
    """

    train: PretrainingTargets
    val: PretrainingTargets
    summaries: Float[Tensor, "N S"]
    val_summaries: Float[Tensor, "V S"]
    average: Tensor | None

    @classmethod
    def of(cls, zoos: Sequence[tuple[Zoo, Split[Zoo]]], objective: Pretraining, console: Console) -> "Lessons":
        """Reads and runs the models. Raises `InputError` if no train checkpoint has finite weights."""
        first, split_of_first = zoos[0]
        evaluated = None if lack_to_run(first) else Evaluated.of(first, objective.images)
        with console.status("describing checkpoints"):
            described = [PretrainingTargets.of(zoo, evaluated) for zoo, _ in zoos]
        parts = [targets.of_paths(split.train.frame["path"]) for targets, (_, split) in zip(described, zoos, strict=True)]
        train, val = PretrainingTargets.joined(parts), described[0].of_paths(split_of_first.val.frame["path"])
        if not len(train.invariants):
            raise InputError("no train checkpoint has finite weights; look at the status column of the zoo's index")
        average = train.log_probabilities[known_rows(train.log_probabilities)].exp().mean(0)
        val, train = val.scaled(train), train.scaled(train)
        if evaluated is None:
            summaries, val_summaries = (torch.full((len(some.invariants), 1), torch.nan) for some in (train, val))
            return cls(train, val, summaries, val_summaries, None)
        summaries, val_summaries = scaled_summaries(train.log_probabilities, val.log_probabilities, average=average)
        return cls(train, val, summaries, val_summaries, average)


def _trained(
    config: TrainConfig,
    objective: Pretraining,
    lessons: Lessons,
    inputs: InvariantInputs,
    build: Callable[[InvariantInputs], InvariantEncoder],
    *,
    log: Callable[[str, int, Mapping[str, float]], None],
    console: Console,
    device: torch.device,
) -> tuple[InvariantEncoder, Heads]:
    """Returns the encoder and its heads after training, in eval mode on the CPU. Draws from the global stream of random numbers."""
    train = lessons.train
    encoder, values = build(inputs), inputs.values(train.invariants)
    encoder.fit_scales(values)
    heads = Heads(
        encoder,
        log_probabilities=train.log_probabilities[0].numel(),
        update_norms=train.update_norms.shape[1],
        summaries=lessons.summaries.shape[1] if objective.summary else 0,
    )
    encoder, heads, summaries = encoder.to(device), heads.to(device), lessons.summaries.to(device)
    log_probabilities, update_norms = train.log_probabilities.to(device), train.update_norm_values().to(device)
    standardized = encoder.standardize(values.to(device))
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.steps + 1)
    steps = range(1, config.steps + 1)
    for step in track(steps, "invariant encoder", console=console, transient=True, disable=not console.is_terminal):
        rows = torch.randint(len(standardized), (config.batch_size,)).to(device)
        seen = standardized[rows]
        embeddings = encoder.member_embeddings(seen + objective.noise * torch.randn_like(seen))
        loss = objective.behaviour * heads.divergence(embeddings, log_probabilities[rows])
        loss = loss + objective.reconstruction * heads.error(embeddings, seen)
        if objective.forecast:
            loss = loss + objective.forecast * heads.forecast_error(embeddings, update_norms[rows])
        if objective.summary:
            loss = loss + objective.summary * heads.summary_error(embeddings, summaries[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % config.log_every == 0 or step == config.steps:
            log("train", step, {"loss": loss.item(), "learning_rate": float(schedule.get_last_lr()[0])})
    return encoder.cpu().eval(), heads.cpu().eval()


@torch.no_grad()
def _measured(
    encoder: InvariantEncoder, heads: Heads, objective: Pretraining, lessons: Lessons, inputs: InvariantInputs
) -> dict[str, float]:
    """Returns the losses on the val models; see `pretrain`."""
    val = lessons.val
    standardized = encoder.standardize(inputs.values(val.invariants))
    embeddings = encoder.member_embeddings(standardized)
    found: dict[str, float] = {}
    if lessons.average is not None:
        mean = classes_first(lessons.average.log().expand_as(val.log_probabilities))
        found["divergence"] = heads.divergence(embeddings, val.log_probabilities).item()
        found["divergence_of_mean"] = divergence_of(mean, classes_first(val.log_probabilities)).item()
    found["error"] = heads.error(embeddings, standardized).item()
    if heads.update_norms:
        found["forecast_error"] = heads.forecast_error(embeddings, val.update_norm_values()).item()
    if objective.summary:
        found["summary_error"] = heads.summary_error(embeddings, lessons.val_summaries).item()
    return found
