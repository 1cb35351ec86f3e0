r"""Multinomial logistic regression for K models at a time, to convergence: damped Newton steps by conjugate gradients.

.. math:: f(W, b) = \frac1N \sum_n \mathrm{CE}(t_n, \mathrm{softmax}(W x_n + b)) + \frac{\lambda}{2} \|W\|^2

is convex, and strictly so in W for λ > 0; the bias b is not penalised. With C = 1/(λN) it is the loss of scikit-learn's
`LogisticRegression`, for any probabilities t as targets. A Newton step solves H d = -g with products H v alone (truncated Newton;
Nocedal and Wright, "Numerical Optimization", 7.1). Its preconditioner is the bound H ≤ ½ XᵀX / N + λ (Böhning, 1992), which is the
same for each class. Steps are halved until the loss falls. All of it is float64, and every model stops by itself. The same constant
added to the scores of all classes changes no probability: coefficients keep a mean of 0 over classes.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

SUFFICIENT = 1e-4
"""Share of the decrease that the gradient promises, which a step must reach (Armijo)."""

PRODUCTS = 500
"""Most products with the curvature in one step."""

HALVINGS = 40


@dataclass(frozen=True)
class Regression:
    """Fitted layers: coefficients, the loss with its penalty, the norm of its gradient, gradients and products that were taken."""

    coefficients: Float[Tensor, "K classes F"]
    loss: Float[Tensor, "K"]
    gradient_norm: Float[Tensor, "K"]
    evaluations: Float[Tensor, "K"]


def fit(
    features: Float[Tensor, "K N F"],
    targets: Float[Tensor, "k N classes"],
    *,
    penalised: Float[Tensor, "F"],
    tolerance: float,
    steps: int,
) -> Regression:
    """Fits one linear layer for each of K models.

    Args:
        features: in float64, a column of ones among them where there is a bias.
        targets: probabilities, of each model or (k = 1) of all.
        penalised: λ of each column, 0 for that of the bias.
        tolerance: norm of the gradient at which a model is done.
        steps: most Newton steps.
    """
    count = features.shape[1]
    targets = targets / targets.sum(-1, keepdim=True)  # with any other sum there is no optimum, however near to 1
    theta = features.new_zeros(len(features), targets.shape[-1], features.shape[-1])
    lower = _factor(features, penalised)
    scores = features @ theta.mT
    evaluations = norm = features.new_zeros(len(features))
    for step in range(steps + 1):
        probabilities = scores.softmax(-1)
        gradient = (probabilities - targets).mT @ features / count + penalised * theta
        gradient = gradient - gradient.mean(1, keepdim=True)  # which is round-off
        norm = gradient.flatten(1).norm(dim=1)
        evaluations = evaluations + (norm > tolerance)
        if step == steps or not bool((norm > tolerance).any()):
            break
        direction, products = _solve(features, probabilities, gradient, penalised, lower, norm, tolerance)
        evaluations = evaluations + products
        theta, scores = _search(theta, scores, direction, features @ direction.mT, targets, gradient, penalised)
    return Regression(theta, _loss(theta, scores, targets, penalised), norm, evaluations)


def _loss(theta: Tensor, scores: Tensor, targets: Tensor, penalised: Tensor) -> Float[Tensor, "K"]:
    fitted = scores.logsumexp(-1) - (targets * scores).sum(-1)  # targets sum to 1
    return fitted.mean(1) + 0.5 * (penalised * theta.square()).sum((1, 2))


def _factor(features: Tensor, penalised: Tensor) -> Float[Tensor, "K F F"]:
    """Cholesky factor of the preconditioner; what no feature spans has a little of the mean."""
    bound = 0.5 * features.mT @ features / features.shape[1]
    little = 1e-10 * bound.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-10)
    return torch.linalg.cholesky(bound + torch.diag(penalised) + little[:, None, None] * torch.eye(len(penalised)).to(bound))


def _solve(
    features: Tensor, p: Tensor, gradient: Tensor, penalised: Tensor, lower: Tensor, norm: Tensor, tolerance: float
) -> tuple[Float[Tensor, "K classes F"], Float[Tensor, "K"]]:
    """Newton directions, and how many products with the curvature each took; zeros for models that are done."""

    def curvature(v: Tensor) -> Tensor:
        moved = p * (features @ v.mT)
        return (moved - p * moved.sum(-1, keepdim=True)).mT @ features / features.shape[1] + penalised * v

    def preconditioned(r: Tensor) -> Tensor:
        return torch.cholesky_solve(r.mT, lower).mT

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((1, 2), keepdim=True)

    enough = norm * norm.sqrt().clamp(max=0.1)  # superlinear convergence
    direction, residual = torch.zeros_like(gradient), -gradient
    z = preconditioned(residual)
    search, product = z, dot(residual, z)
    running = norm > tolerance
    products = torch.zeros_like(norm)
    for _ in range(PRODUCTS):
        along = curvature(search)
        products = products + running
        bend = dot(search, along)
        length = torch.where(running.view(-1, 1, 1) & (bend > 0), product / bend.clamp(min=torch.finfo(bend.dtype).tiny), 0)
        direction, residual = direction + length * search, residual - length * along
        running = running & (bend.flatten() > 0) & (residual.flatten(1).norm(dim=1) > enough)
        if not bool(running.any()):
            break
        z = preconditioned(residual)
        last, product = product, dot(residual, z)
        search = z + product / last.clamp(min=torch.finfo(bend.dtype).tiny) * search
    return direction, products


def _search(
    theta: Tensor, scores: Tensor, direction: Tensor, moved: Tensor, targets: Tensor, gradient: Tensor, penalised: Tensor
) -> tuple[Tensor, Tensor]:
    """Goes along the directions, halving each step until its loss falls enough, up to round-off."""
    before = _loss(theta, scores, targets, penalised)
    slope = (direction * gradient).sum((1, 2))
    length, bad = torch.ones_like(before), torch.ones_like(before, dtype=torch.bool)
    for _ in range(HALVINGS):
        step = length.view(-1, 1, 1)
        after = _loss(theta + step * direction, scores + step * moved, targets, penalised)
        bad = ~(after <= before + SUFFICIENT * length * slope + 1e-13 * before.abs())
        if not bool(bad.any()):
            break
        length = torch.where(bad, length / 2, length)
    else:
        length = torch.where(bad, 0.0, length)
    step = length.view(-1, 1, 1)
    return theta + step * direction, scores + step * moved
