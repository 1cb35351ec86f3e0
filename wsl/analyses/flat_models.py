"""Models as rows of one matrix (K W): means, lines and curves are products, and all of them run in stacks on all cores."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import pack
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from zoo_gen.architecture import skeleton
from zoo_gen.evaluate import images_at_once
from zoo_gen.images import ImageSplit
from zoo_gen.stack import ModelStack
from zoo_gen.threads import in_threads, pieces

AT_ONCE = 16
"""Models in a stack, at most."""

Flat = Float[Tensor, "K W"]


class FlatModels:
    """Runs models of one architecture whose weights are rows, in the order of `names`."""

    def __init__(self, architecture: Mapping[str, Any]):
        self.architecture = architecture
        one = ModelStack(skeleton(architecture), 1)
        self.shapes = {name: shape for name, (_, shape) in one.slots.items()}
        self._stacks: dict[tuple[int, int], ModelStack] = {}

    def rows(self, states: Sequence[Mapping[str, Tensor]]) -> Flat:
        """Returns the weights of models as rows, in float32."""
        return torch.stack([pack([state[name].float() for name in self.shapes], "*")[0] for state in states])

    def stacked(self, rows: Flat) -> dict[str, Tensor]:
        """Returns rows as a stack, name -> (K, *shape)."""
        parts = rows.split([shape.numel() for shape in self.shapes.values()], dim=1)
        return {name: part.reshape(-1, *shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def logits(self, rows: Flat, pixels: Float[Tensor, "N C H W"]) -> Float[Tensor, "K N classes"]:
        """Returns the logits of all models on the same images."""

        @torch.no_grad()
        def run(some: slice) -> Tensor:
            stack = self._stack(some, rows)
            return torch.cat([stack(one.expand(stack.size, *one.shape)) for one in pixels.split(images_at_once(stack))], dim=1)

        return torch.cat([*in_threads(run, pieces(len(rows), AT_ONCE))])

    def scores(self, rows: Flat, images: ImageSplit) -> tuple[Float[Tensor, "K"], Float[Tensor, "K"]]:
        """Returns the accuracy and the cross-entropy in nats of all models."""
        out = self.logits(rows, images.pixels)
        return accuracy(out, images.labels), cross_entropy(out, images.labels)

    def gradient(self, rows: Flat, pixels: Float[Tensor, "N C H W"], labels: Int[Tensor, "N"]) -> tuple[Float[Tensor, "K"], Flat]:
        """Returns the cross-entropy of all models, and its gradient in their weights."""

        def run(some: slice) -> tuple[Tensor, Tensor]:
            stack = self._stack(some, rows)
            with torch.enable_grad():
                losses = cross_entropy(stack(pixels.expand(stack.size, *pixels.shape)), labels)
                found = torch.autograd.grad(losses.sum(), [*stack.parameters()])
            return losses.detach(), torch.cat([one.flatten(1) for one in found], dim=1)

        losses, gradients = zip(*in_threads(run, pieces(len(rows), AT_ONCE)), strict=True)
        return torch.cat(losses), torch.cat(gradients)

    def _stack(self, some: slice, rows: Flat) -> ModelStack:
        """The stack of some rows; made once for each place and size."""
        key = some.start, some.stop - some.start
        if key not in self._stacks:
            self._stacks[key] = ModelStack(skeleton(self.architecture), key[1]).eval()
        self._stacks[key].flat.copy_(rows[some])
        return self._stacks[key]


def accuracy(logits: Float[Tensor, "K N classes"], labels: Int[Tensor, "N"]) -> Float[Tensor, "K"]:
    """Returns the share of images whose class each model predicts."""
    return (logits.argmax(-1) == labels).double().mean(-1)


def cross_entropy(logits: Float[Tensor, "K N classes"], labels: Int[Tensor, "N"]) -> Float[Tensor, "K"]:
    """Returns the mean cross-entropy of each model, in nats."""
    return functional.cross_entropy(logits.mT, labels.expand(len(logits), -1), reduction="none").mean(1)
