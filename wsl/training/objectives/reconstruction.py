"""Self-supervised reconstruction: the squared error of decoded tokens.

Standardised tokens have unit variance in every role, so an error of 1 means "nothing learned" and 0 "exact", and each weight
counts the same. (The mean of the roles' errors would let three tokens of a classifier head weigh as much as a hundred of the
MLPs: the autoencoder then learns the train models' heads by heart, error .92 on held-out heads instead of .76.)
"""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from wsl.data.windows import Batch
from wsl.layout.slots import ROLES
from wsl.training.objectives.objective import Objective


class Reconstruction(Objective):
    """Masked mean squared error of directions, plus that of log-scales times `scale_weight`; the errors of each role beside it.

    Args:
        scale_weight: weight of the error of the log-scale coordinate beside that of the weights it scales.
    """

    def __init__(self, *, scale_weight: float):
        self.scale_weight = scale_weight

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Returns `loss`, `error/scale` and `error/<role>` (NaN for roles that the batch does not have)."""
        reconstruction = model(*batch.inputs)
        squared = (reconstruction.float() - batch.values).square() * batch.mask
        direction = squared[..., :-1].sum() / batch.entries
        scale = squared[..., -1].sum() / batch.tokens
        roles = _mean_per_role(squared[..., :-1].detach(), batch.mask[..., :-1], batch.positions)
        errors = {f"error/{role}": error for role, error in zip(ROLES, roles, strict=True)}
        return {"loss": direction + self.scale_weight * scale, "error/scale": scale.detach(), **errors}


def _mean_per_role(
    squared: Float[Tensor, "B T D"], mask: Float[Tensor, "B T D"], positions: Int[Tensor, "B T P"]
) -> Float[Tensor, " R"]:
    """Mean over the unmasked entries of each role; NaN where there are none."""
    role = functional.one_hot(positions[..., 1].clamp(min=0), len(ROLES)).to(squared.dtype)
    role = rearrange(role, "b t r -> (b t) r")
    total = rearrange(squared.sum(-1), "b t -> (b t)") @ role
    count = rearrange(mask.sum(-1).to(squared.dtype), "b t -> (b t)") @ role
    return torch.where(count > 0, total / count.clamp(min=1), torch.nan)
