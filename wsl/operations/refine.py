r"""Refinement: descent in the weights of many models at once, towards labels, an ensemble, or a mixture of teachers for each.

Model k descends on the mean over a batch of

.. math:: \mathrm{CE}(t_k, p_k) + \frac{\rho}{K - 1} \sum_{j \ne k} \max(0,\, c_{kj} - \bar c)

with targets t, its own predictions p, and a repulsion ρ between the models. c is the agreement of two models, the mean cosine of
their predictions, and c̄ the mean agreement of two different teachers: models may agree with each other as much as teachers do. All
models see the same batches. Targets of no labels: Hinton et al., arXiv 1503.02531 (distillation). Repulsion between the members of
an ensemble: Liu & Yao, "Ensemble learning via negative correlation", 1999; D'Angelo & Fortuin, arXiv 2106.11642.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from wsl.operations.models import (
    Advance,
    Cost,
    Outcome,
    State,
    check_images,
    check_states,
    loaded,
    on_all_cores,
    shapes_of,
    size_of,
    slices,
    whole,
)
from wsl.operations.targets import Targets
from zoo_gen.errors import InputError
from zoo_gen.objectives import cross_entropy
from zoo_gen.optimizers import StackOptimizer
from zoo_gen.recipe import Recipe
from zoo_gen.stack import ModelStack

PLAIN = {
    "objective": "supervised",
    "head": "linear",
    "init": "timm",
    "frozen": "none",
    "epochs": 1,
    "seed": 0,
    **dict.fromkeys(("temperature", "crop", "fraction"), 1.0),
    **dict.fromkeys(("dropout", "label_smoothing", "mixup", "cutmix", "random_erasing", "shift", "rotate", "flip", "jitter"), 0.0),
    **dict.fromkeys(("width", "depth")),
}
"""Factors of a recipe that mean nothing here, or that nothing is done: one epoch of all steps, of images as they are."""


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """Descent in weights, by the optimizers that zoos are trained with.

    Attributes:
        steps: gradient steps of each model.
        batch_size: images of a step; all of them, where there are fewer.
        optimizer: `adamw`, or `sgd` with momentum 0.9.
        learning_rate: at its peak, after the warm-up.
        warmup: share of the steps in which the learning rate rises.
        schedule: of the learning rate after the warm-up: `cosine` or `linear` to zero, or `constant`.
        weight_decay: of matrices.
        repulsion: ρ, 0 for none.
    """

    steps: int
    batch_size: int
    optimizer: str
    learning_rate: float
    warmup: float
    schedule: str
    weight_decay: float
    repulsion: float

    def __post_init__(self) -> None:
        """Raises `InputError` for settings that nothing can be refined with."""
        whole("a refinement", steps=self.steps)
        if not 0 <= self.repulsion < math.inf:
            raise InputError(f"repulsion of a refinement must be at least 0 and finite, not {self.repulsion}; 0 is none")
        _ = self.recipe

    @property
    def recipe(self) -> Recipe:
        """The recipe of the optimizer: one epoch of all steps."""
        own = {name: getattr(self, name) for name in ("batch_size", "optimizer", "learning_rate", "schedule", "weight_decay")}
        return Recipe(**{**PLAIN, **own, "warmup_epochs": self.warmup})

    def __call__(
        self,
        architecture: Mapping[str, Any],
        models: Sequence[State],
        pixels: Float[Tensor, "N C H W"],
        targets: Targets,
        rng: np.random.Generator,
        *,
        advance: Advance = lambda done: None,
    ) -> Outcome:
        """Refines models, with repulsion all of them together.

        Args:
            architecture: of all models.
            models: K state dicts, where they begin.
            pixels: images, of which batches are drawn.
            targets: of these models on these images.
            rng: draws the order of the images, which is the same for all models.
            advance: is called with the number of models that made a step, K times `steps` in all.

        Returns:
            The models, and as figures `divergence` (K, steps): KL divergence of each model's predictions from its targets before
            each step, on the batch of that step, in nats. That of a model that diverged is NaN, and so are its weights.

        Raises:
            InputError: there are no images, models are of other shapes or not finite, the targets are of others, or there is a
                repulsion and fewer than two models or two teachers.
        """
        shapes = shapes_of(architecture)
        check_states(models, shapes)
        check_images(pixels, models)
        targets.check(len(models), len(pixels), architecture.get("num_classes") or 0)
        if self.repulsion and min(len(models), len(targets.teachers)) < 2:
            raise InputError(
                f"repulsion={self.repulsion:g} keeps models apart as far as teachers are, and there are {len(models)} and "
                f"{len(targets.teachers)}; pass two or more of both (labels take teachers=...), or repulsion=0"
            )
        parts = slices(len(models), size_of(models[0]))
        batches = list(_batches(len(pixels), self.batch_size, self.steps, rng))

        def descent(some: slice) -> _Descent:
            return _Descent(loaded(architecture, models[some]), self.recipe, self.steps, some, targets)

        def alone(some: slice) -> list[Refined]:
            one = descent(some)
            for images in batches:
                one.step(torch.as_tensor(pixels[images]), images)
                advance(some.stop - some.start)
            return one.end()

        if self.repulsion:
            found = self._together([descent(some) for some in parts], pixels, batches, targets, advance)
        else:
            found = [*chain.from_iterable(on_all_cores(alone, parts))]
        states, divergences = zip(*found, strict=True)
        seen = float(sum(map(len, batches)))
        cost = Cost(gradients=self.steps, gradient_images=seen, forward_images=seen if self.repulsion else 0.0)
        return Outcome([*states], cost, {"divergence": torch.stack(divergences)})

    def _together(
        self, descents: Sequence["_Descent"], pixels: Tensor, batches: Sequence[Tensor], targets: Targets, advance: Advance
    ) -> list["Refined"]:
        """Steps of all models at once: the predictions of all of them, then the gradient of each."""
        by_start = {one.models.start: one for one in descents}
        parts = [one.models for one in descents]
        for images in batches:
            batch = torch.as_tensor(pixels[images])
            everyone = torch.cat([*on_all_cores(lambda some, batch=batch: by_start[some.start].predict(batch), parts)])
            level = agreement_of_teachers(targets.teachers[:, images])
            repel = partial(_repulsion, self.repulsion, everyone=functional.normalize(everyone, dim=-1), level=level)

            def one(some: slice, batch: Tensor = batch, images: Tensor = images, repel: Any = repel) -> None:
                by_start[some.start].step(batch, images, partial(repel, first=some.start))
                advance(some.stop - some.start)

            _ = [*on_all_cores(one, parts)]
        return [*chain.from_iterable(one.end() for one in descents)]


def agreement_of_teachers(teachers: Float[Tensor, "E B classes"]) -> Tensor:
    """Returns the mean cosine of the predictions of two different teachers."""
    unit, count = functional.normalize(teachers, dim=-1), len(teachers)
    return (unit.sum(0).square().sum(-1).mean() - count) / (count * (count - 1))


def _repulsion(
    strength: float, p: Float[Tensor, "k B classes"], *, everyone: Float[Tensor, "K B classes"], level: Tensor, first: int
) -> Float[Tensor, "k"]:
    """Repulsion of some models, the first of them number `first`, from all others, which stay still."""
    agreement = functional.normalize(p, dim=-1).flatten(1) @ everyone.flatten(1).mT / p.shape[1]
    others = torch.ones_like(agreement)
    others[torch.arange(len(p)), first + torch.arange(len(p))] = 0
    return strength * ((agreement - level).clamp(min=0) * others).sum(1) / (len(everyone) - 1)


Refined = tuple[dict[str, Tensor], Float[Tensor, "steps"]]
"""A model at the end, and its divergence in each step."""


class _Descent:
    """The descent of one stack."""

    def __init__(self, stack: ModelStack, recipe: Recipe, steps: int, models: slice, targets: Targets):
        self.stack, self.models, self.targets = stack.eval(), models, targets
        self.parameters = list(stack.parameters())
        self.optimizer = StackOptimizer(stack, [recipe] * stack.size, steps_per_epoch=steps)
        self.divergences: list[Float[Tensor, "k"]] = []

    @torch.no_grad()
    def predict(self, pixels: Float[Tensor, "B C H W"]) -> Float[Tensor, "k B classes"]:
        return self._logits(pixels).softmax(-1)

    def step(self, pixels: Float[Tensor, "B C H W"], images: Int[Tensor, "B"], repel: Any = None) -> None:
        targets = self.targets.of(self.models, images)
        with torch.enable_grad():
            logits = self._logits(pixels)
            losses = cross_entropy(logits, targets)
            self.divergences.append((losses + torch.special.entr(targets).sum(-1).neg().mean(-1)).detach())
            if repel is not None:
                losses = losses + repel(logits.softmax(-1))
            gradients = torch.autograd.grad(losses.sum(), self.parameters)
        self.optimizer.step(gradients)

    def end(self) -> list[Refined]:
        by_model = torch.stack(self.divergences, dim=1)
        return [(self.stack.weights(row), divergence) for row, divergence in enumerate(by_model)]

    def _logits(self, pixels: Float[Tensor, "B C H W"]) -> Float[Tensor, "k B classes"]:
        return self.stack(pixels.expand(self.stack.size, *pixels.shape))


def _batches(images: int, batch_size: int, steps: int, rng: np.random.Generator) -> Iterator[Int[Tensor, "B"]]:
    """Yields the images of each step: epoch after epoch without a gap, so that all batches have one size."""
    size = min(batch_size, images)
    waiting = np.empty(0, dtype=np.int64)
    for _ in range(steps):
        if len(waiting) < size:
            waiting = np.concatenate([waiting, rng.permutation(images)])
        yield torch.from_numpy(waiting[:size])
        waiting = waiting[size:]
