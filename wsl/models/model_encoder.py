"""The model encoder: from the invariants of a checkpoint to one latent vector.

Where the encoder of tokens sees a window, this one sees the whole model, by numbers that no order of neurons or heads can change
(`wsl.invariants`). Several small networks (members) share the latent vector, so that their errors average out in what a linear
probe makes of it. Some read everything; the others only how far each tensor has moved and where to as its root sees it: few
numbers, which mean the same whatever the root, and which a network learns from few models.
"""

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo_gen.errors import InputError

_EXTREME = 10.0
"""Invariants further from the mean than this, in deviations, count as this far."""

CHANGE = "change of "
"""How the columns begin that say what became of a tensor since the root."""

MOVES = ("l1", "l2", "max", "relative", "cosine", "along", "turn")
"""How the columns end that say how far a tensor has moved, and where to."""


class ModelEncoder(nn.Module):
    """Latent vectors of checkpoints (N Z), the shares of its members side by side.

    Args:
        columns: of the invariants that are read.
        everything: members that read all columns.
        moves: members that read how far tensors have moved, and where to (`MOVES`).
        hidden: width of each member.
        latent: numbers that each member gives.
        dropout: share of the inputs that a member does without in training.

    Raises `InputError` for sizes of which nothing can be built, and for `moves` where no column says anything of them.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, columns: Sequence[str], *, everything: int, moves: int, hidden: int, latent: int, dropout: float):
        super().__init__()
        if min(everything, moves) < 0 or everything + moves < 1 or min(hidden, latent) < 1 or not 0 <= dropout < 1:
            raise InputError(
                "a model encoder needs at least one member, a hidden and a latent width of at least 1 and a dropout below 1, not "
                f"everything={everything}, moves={moves}, hidden={hidden}, latent={latent}, dropout={dropout}"
            )
        moved = [i for i, column in enumerate(columns) if column.startswith(CHANGE) and column.rpartition("/")[2] in MOVES]
        if moves and not moved:
            raise InputError(
                "no tensor of these models has a counterpart in a root, so nothing says how far it moved; set moves to 0"
            )
        self.columns, self.latent = list(columns), latent
        whole = torch.arange(len(columns))
        self.reads = [whole] * everything + [torch.tensor(moved, dtype=torch.int64)] * moves
        self.forecasts = [False] * everything + [True] * moves
        self.members = nn.ModuleList(
            nn.Sequential(nn.Dropout(dropout), nn.Linear(len(reads), hidden), nn.GELU(), nn.Linear(hidden, latent))
            for reads in self.reads
        )
        self.register_buffer("mean", torch.zeros(len(columns)))
        self.register_buffer("deviation", torch.ones(len(columns)))

    def fit_scales(self, invariants: Float[Tensor, "N C"]) -> None:
        """Takes means and deviations from train checkpoints (NaN: not there); a column that never varies is not read."""
        known = invariants.isfinite()
        count = known.sum(0).clamp(min=1)
        mean = invariants.where(known, 0).sum(0) / count
        deviation = ((invariants - mean).where(known, 0).square().sum(0) / count).sqrt()
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > 1e-9, deviation, torch.inf))

    def standardize(self, invariants: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        """Deviations from the mean; 0 for what a checkpoint lacks, NaN where it has nothing (its weights are not finite)."""
        nothing = invariants.isnan().all(1, keepdim=True)
        scaled = ((invariants - self.mean) / self.deviation).clamp(-_EXTREME, _EXTREME).nan_to_num(nan=0.0)
        return scaled.float().masked_fill(nothing, torch.nan)

    def shares(self, standardized: Float[Tensor, "N C"]) -> list[Float[Tensor, "N latent"]]:
        """The share of each member in the latent vector."""
        return [member(standardized[:, reads]) for member, reads in zip(self.members, self.reads, strict=True)]

    def forward(self, invariants: Float[Tensor, "N C"]) -> Float[Tensor, "N Z"]:
        """Latent vectors of checkpoints; NaN for one whose weights are not finite."""
        return torch.cat(self.shares(self.standardize(invariants)), dim=1)

    def untrained(self) -> "ModelEncoder":
        """This encoder before training: the same scales, fresh weights."""
        fresh = copy.deepcopy(self)
        for module in fresh.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        return fresh
