"""The exponential moving average of the weights of a model in training (EMA), as of `torch.optim.swa_utils`.

    a <- decay a + (1 - decay) w   after each step, with decay = min(ema, (1 + step) / (10 + step))

so that the weights of the beginning, far from all that follow, are soon forgotten (the warm-up of the peers). At ema 0 the average
is the weights themselves, and nothing is kept.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The averaged weights of a model, by parameter name; sharded as the model is.

    Args:
        model: whose weights are averaged, from what they are now on.
        ema: the largest decay; 0 keeps nothing.
    """

    def __init__(self, model: nn.Module, *, ema: float):
        self.ema = ema
        self.parameters = dict(model.named_parameters()) if ema else {}
        self.weights = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the weights; steps count from 1."""
        decay = min(self.ema, (1 + step) / (10 + step))
        for name, parameter in self.parameters.items():
            self.weights[name].lerp_(parameter, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """A context in which the model has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            weights: Tensor = parameter.clone()
            parameter.copy_(self.weights[name])
            self.weights[name].copy_(weights)
