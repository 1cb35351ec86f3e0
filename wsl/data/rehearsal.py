"""Rehearsals: short fine-tunings of a root under heads that are given, which tell where fine-tuning goes.

Where a fine-tuned model went depends on its root, on the images, and on its head. The root and the images are known to whoever
decodes it, and a head is small. So a decoder can fine-tune the root itself for some steps, with the head held still, and read what
it was not told of the body from there. Two optimizers take different ways: SGD with momentum, its gradients clipped to unit norm,
and AdamW without weight decay. Nothing is random: the batches are the same ones for every model.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from zoo_gen.architecture import skeleton
from zoo_gen.errors import InputError
from zoo_gen.images import ImageSplit
from zoo_gen.stack import ModelStack
from zoo_gen.threads import in_threads, pieces

AT_ONCE = 16
"""Models that are rehearsed together, at most."""

WEIGHTS_AT_ONCE = 2**22
"""Weights of models that are rehearsed together, at most; a larger model is alone."""

MOMENTUM = 0.9
BETAS = (0.9, 0.99)

State = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """A recipe of rehearsals.

    Attributes:
        steps: of each optimizer; 0 for no rehearsals.
        batch_size: images of a step.
        sgd, adamw: their learning rates.
    """

    steps: int
    batch_size: int
    sgd: float
    adamw: float

    def __post_init__(self) -> None:
        """Raises `InputError` for numbers that nothing can be rehearsed with."""
        if self.steps < 0 or self.batch_size < 1 or not (0 < self.sgd < math.inf and 0 < self.adamw < math.inf):
            raise InputError(
                "rehearsal.steps must be at least 0, batch_size at least 1, sgd and adamw more than 0 and finite; "
                f"not {self.steps}, {self.batch_size}, {self.sgd} and {self.adamw}"
            )

    def changes(
        self, architecture: Mapping[str, Any], models: Sequence[State], fixed: frozenset[str], images: ImageSplit
    ) -> list[list[dict[str, Tensor]]]:
        """Fine-tunes models of one architecture on labelled images, some tensors held still.

        Args:
            architecture: of all of them.
            models: weights to begin with: those of a root, with a head of the fine-tuned model.
            fixed: names of tensors that do not move.
            images: what they are fine-tuned on.

        Returns:
            For each model, the changes of its tensors after SGD and after AdamW. Raises `InputError` for models that cannot be
            run as a stack.
        """
        count = sum(tensor.numel() for tensor in models[0].values())
        step = max(1, min(AT_ONCE, WEIGHTS_AT_ONCE // count))
        stacks = [models[some] for some in pieces(len(models), step)]
        run = in_threads if step > 1 else map  # a large model has all cores, and memory, for itself
        return [*chain.from_iterable(run(lambda some: self._stack(architecture, some, fixed, images), stacks))]

    def _stack(
        self, architecture: Mapping[str, Any], models: Sequence[State], fixed: frozenset[str], images: ImageSplit
    ) -> list[list[dict[str, Tensor]]]:
        stack = ModelStack(skeleton(architecture), len(models))
        start = torch.stack([torch.cat([model[name].float().flatten() for name in stack.slots]) for model in models])
        still = torch.zeros(start.shape[1], dtype=torch.bool)
        for name, (offset, shape) in stack.slots.items():
            still[offset : offset + math.prod(shape)] = name in fixed
        batches = list(_batches(images, self.batch_size, self.steps))
        ends = [self._by_sgd(stack, start, still, batches), self._by_adamw(stack, start, still, batches)]
        rows = [stack.rows(end - start) for end in ends]
        return [[{n: t[i].reshape(stack.slots[n][1]) for n, t in by.items()} for by in rows] for i in range(len(models))]

    def _by_sgd(self, stack: ModelStack, weights: Tensor, still: Tensor, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        momentum = torch.zeros_like(weights)
        for pixels, labels in batches:
            gradient = _gradient(stack, weights, pixels, labels).masked_fill(still, 0)
            momentum = MOMENTUM * momentum + gradient / gradient.norm(dim=1, keepdim=True).clamp(min=1)
            weights = weights - self.sgd * momentum
        return weights

    def _by_adamw(self, stack: ModelStack, weights: Tensor, still: Tensor, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        first, second = torch.zeros_like(weights), torch.zeros_like(weights)
        for step, (pixels, labels) in enumerate(batches, start=1):
            gradient = _gradient(stack, weights, pixels, labels).masked_fill(still, 0)
            first, second = (b * m + (1 - b) * g for b, m, g in zip(BETAS, (first, second), (gradient, gradient**2), strict=True))
            unbiased = [moment / (1 - beta**step) for beta, moment in zip(BETAS, (first, second), strict=True)]
            weights = weights - self.adamw * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
        return weights


def _batches(images: ImageSplit, batch_size: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields pixels and labels of some steps: epoch after epoch, shuffled by a generator of their own."""
    generator, waiting = torch.Generator().manual_seed(0), list[Tensor]()
    for _ in range(steps):
        waiting = waiting or list(torch.randperm(len(images), generator=generator).split(batch_size))
        chosen = waiting.pop(0)
        yield torch.as_tensor(images.pixels[chosen]), images.labels[chosen]


def _gradient(
    stack: ModelStack, weights: Float[Tensor, "K W"], pixels: Float[Tensor, "B C H W"], labels: Tensor
) -> Float[Tensor, "K W"]:
    """Gradient of each model's cross-entropy on the same images."""
    with torch.enable_grad():
        leaf = weights.detach().requires_grad_()
        logits = stack.run(leaf, pixels.expand(len(leaf), *pixels.shape))
        loss = functional.cross_entropy(logits.flatten(0, 1), repeat(labels, "b -> (k b)", k=len(leaf)), reduction="sum")
        return torch.autograd.grad(loss / len(labels), leaf)[0]
