"""Self-supervised reconstruction: the squared error of decoded tokens, normalised per role.

Standardised tokens have unit variance in every role, so an error of 1 means "nothing learned" and 0 "exact". The loss
is the mean of the roles' errors: a classifier head of three tokens weighs as much as a hundred tokens of MLP weights.
"""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from wsl.data import Batch
from wsl.layout import ROLES


class Reconstruction:
    """Masked mean squared error of directions per role, plus the squared error of log-scales times `scale_weight`.

    Args:
        scale_weight: weight of the error of the log-scale coordinate beside that of the weights it scales.
    """

    def __init__(self, *, scale_weight: float):
        self.scale_weight = scale_weight

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Returns `loss`, `error/scale` and `error/<role>` (NaN for roles that the batch does not have)."""
        reconstruction = model(batch.values, batch.mask, batch.positions)
        squared = (reconstruction.float() - batch.values).square() * batch.mask
        direction = _mean_per_role(squared[..., :-1], batch.mask[..., :-1], batch.positions)
        scale = _mean_per_role(squared[..., -1:], batch.mask[..., -1:], batch.positions)
        errors = {f"error/{role}": error.detach() for role, error in zip(ROLES, direction, strict=True)}
        loss = direction.nanmean() + self.scale_weight * scale.nanmean()
        return {"loss": loss, "error/scale": scale.nanmean().detach(), **errors}


def _mean_per_role(
    squared: Float[Tensor, "B T D"], mask: Float[Tensor, "B T D"], positions: Int[Tensor, "B T P"]
) -> Float[Tensor, " R"]:
    """Mean over the unmasked entries of each role; NaN where there are none."""
    role = functional.one_hot(positions[..., 1].clamp(min=0), len(ROLES)).to(squared.dtype)
    role = rearrange(role, "b t r -> (b t) r")
    total = rearrange(squared.sum(-1), "b t -> (b t)") @ role
    count = rearrange(mask.sum(-1).to(squared.dtype), "b t -> (b t)") @ role
    return torch.where(count > 0, total / count.clamp(min=1), torch.nan)
