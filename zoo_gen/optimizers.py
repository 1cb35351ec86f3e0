"""AdamW and SGD for a stack: one learning rate and weight decay per model, a few operations on the whole weight buffer.

The first models of the stack train with AdamW (arXiv 1711.05101), the others with SGD and momentum, exactly as `torch.optim` would.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from zoo_gen.recipe import Recipe
from zoo_gen.stack import ModelStack
from zoo_gen.team import ALONE, Team

BETAS, EPS, MOMENTUM = (0.9, 0.999), 1e-8, 0.9
SHAPES = {"cosine": lambda t: (1 + math.cos(math.pi * t)) / 2, "linear": lambda t: 1 - t, "constant": lambda t: 1.0}
"""Share of the peak learning rate at a share t of the steps after the warm-up."""


class StackOptimizer:
    """One optimizer for the K models of a stack, whose recipes list AdamW before SGD.

    `first` (K, W) holds first moments of AdamW and momentum buffers of SGD, `second` (A, W) second moments of the A models with
    AdamW.
    """

    def __init__(self, stack: ModelStack, recipes: Sequence[Recipe], *, steps_per_epoch: int):
        self.stack, self.recipes, self.steps_per_epoch = stack, recipes, steps_per_epoch
        self.adamw = sum(recipe.optimizer == "adamw" for recipe in recipes)
        flat = stack.flat
        self.gradient = torch.zeros_like(flat)
        self._gradients = list(stack.rows(self.gradient).values())
        decays = [torch.full(shape, float(len(shape) in (2, 4))).flatten() for _, shape in stack.slots.values()]
        strength = torch.tensor([[recipe.weight_decay] for recipe in recipes], dtype=flat.dtype, device=flat.device)
        self.decay = strength * torch.cat(decays).to(flat)
        models = torch.tensor([recipe.frozen == "backbone" for recipe in recipes])
        in_head = [torch.full(shape, name.startswith("head.")).flatten() for name, (_, shape) in stack.slots.items()]
        self.frozen = (models[:, None] & ~torch.cat(in_head)).to(flat.device) if models.any() else None
        if self.frozen is not None:
            self.decay.masked_fill_(self.frozen, 0.0)
        self.first = torch.zeros_like(flat)
        self.second = torch.zeros_like(flat[: self.adamw])
        self.steps = 0

    def learning_rates(self) -> Float[Tensor, "K 1"]:
        """The learning rate of each model at the coming step: linear warm-up, then its schedule."""
        rates = []
        for recipe in self.recipes:
            total, warmup = recipe.epochs * self.steps_per_epoch, recipe.warmup_epochs * self.steps_per_epoch
            if self.steps < warmup:
                share = (self.steps + 1) / (warmup + 1)
            else:
                share = SHAPES[recipe.schedule]((self.steps - warmup) / max(1, total - warmup))
            rates.append([recipe.learning_rate * share])
        return torch.tensor(rates, dtype=self.first.dtype, device=self.first.device)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], team: Team = ALONE) -> None:
        """Updates all weights by the gradients of the stack's parameters, in their order, averaged over a team."""
        for row, gradient in zip(self._gradients, gradients, strict=True):
            row.copy_(gradient)
        team.mean_(self.gradient)
        if self.frozen is not None:
            self.gradient.masked_fill_(self.frozen, 0.0)
        rates, flat, a = self.learning_rates(), self.stack.flat, self.adamw
        self.steps += 1
        if a:
            weights, gradient, first, second, rate = flat[:a], self.gradient[:a], self.first[:a], self.second, rates[:a]
            first.lerp_(gradient, 1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            denominator = second.sqrt().div_(math.sqrt(1 - BETAS[1] ** self.steps)).add_(EPS)
            weights.mul_(1 - rate * self.decay[:a])
            weights.sub_(first.div(denominator).mul_(rate / (1 - BETAS[0] ** self.steps)))
        if a < len(flat):
            weights, gradient, first = flat[a:], self.gradient[a:], self.first[a:]
            gradient.addcmul_(weights, self.decay[a:])
            first.mul_(MOMENTUM).add_(gradient)
            weights.sub_(first * rates[a:])
