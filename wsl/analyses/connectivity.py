r"""Mode connectivity: the loss along a line and along a learned quadratic Bezier curve between two models.

.. math:: \phi(t) = (1 - t)^2 a + 2 t (1 - t) \theta + t^2 b

Descent moves the bend :math:`\theta` so that the loss at random t falls (Garipov et al., 1802.10026). The barrier of a path is the
largest excess of the loss over the straight line between the losses of its ends (Frankle et al., 1912.05671).
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wsl.analyses.flat_models import Flat, FlatModels
from zoo_gen.images import ImageSplit


def bend(
    a: Flat,
    b: Flat,
    models: FlatModels,
    train: ImageSplit,
    *,
    steps: int,
    rate: float,
    batch_size: int,
    rng: np.random.Generator,
    advance: Callable[[], object],
) -> Flat:
    """Learns the bend of the curve between each row of `a` and that of `b`, from half way."""
    theta = ((a + b) / 2).clone().requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=rate)
    for _ in range(steps):
        t = torch.from_numpy(rng.random((len(a), 1), dtype=np.float32))
        images = torch.from_numpy(rng.choice(len(train), size=min(batch_size, len(train)), replace=False))
        _, gradient = models.gradient(at(a, theta.detach(), b, t), train.pixels[images], train.labels[images])
        theta.grad = 2 * t * (1 - t) * gradient
        optimizer.step()
        advance()
    return theta.detach()


def at(a: Flat, theta: Flat, b: Flat, t: Tensor | float) -> Flat:
    """Returns the points of the curves at t; with a bend half way the curve is the line."""
    return (1 - t) ** 2 * a + 2 * t * (1 - t) * theta + t**2 * b


def profile(a: Flat, theta: Flat, b: Flat, models: FlatModels, images: ImageSplit, *, points: int) -> Float[np.ndarray, "K P"]:
    """Returns the loss of each path at equal steps."""
    return np.stack([models.scores(at(a, theta, b, t), images)[1].numpy() for t in np.linspace(0, 1, points).tolist()], axis=1)


def barriers(losses: Float[np.ndarray, "K P"]) -> Float[np.ndarray, " K"]:
    """Returns how far losses at equal steps rise above the line between the first and the last; at least 0."""
    t = np.linspace(0, 1, losses.shape[1])
    return (losses - (1 - t) * losses[:, :1] - t * losses[:, -1:]).max(1)
