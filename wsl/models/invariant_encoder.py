"""The invariant encoder: from the invariants of a checkpoint to one latent vector.

Where a hyper-representation sees windows of tokens, this model sees a whole checkpoint, by numbers that no order of neurons or
heads can change (`wsl.data.invariants`). Several small networks, the ensemble members, each embed the checkpoint; the latent
vector is their embeddings side by side, so that their errors average out in a linear probe. Members are of three kinds, by the
columns that they read: everything; how far each tensor has moved since the root and where to; where tensors have moved to and the
head alone. The last kind reads few numbers, which mean the same whatever the root, and which a network learns from few models.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from zoo_gen.errors import InputError

_EXTREME = 10.0
"""Invariants further from the mean than this, in deviations, count as this far."""


class EnsembleMembers(nn.Module):
    """Networks of one hidden layer that read the same columns: (N C) -> (E N latent), all E of them by one product."""

    def __init__(self, columns: int, members: int, *, hidden: int, latent: int):
        super().__init__()
        self.hidden = nn.Linear(columns, members * hidden)
        self.latents = Linears(members, hidden, latent)

    def forward(self, inputs: Float[Tensor, "N C"]) -> Float[Tensor, "E N latent"]:
        """The latents of each member."""
        hidden = functional.gelu(self.hidden(inputs))
        return self.latents(rearrange(hidden, "n (e h) -> e n h", e=len(self.latents.weight)))

    def heads(self, outputs: int) -> "Linears":
        """Returns fresh linear heads of each member's latents."""
        members, _, latent = self.latents.weight.shape
        return Linears(members, latent, outputs)


class Linears(nn.Module):
    """E linear maps side by side, each of its own input: (E N F) -> (E N O)."""

    def __init__(self, members: int, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs))
        bound = 1 / math.sqrt(inputs)  # as `nn.Linear`
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, inputs: Float[Tensor, "E N F"]) -> Float[Tensor, "E N O"]:
        """What each map makes of its own input."""
        return torch.baddbmm(self.bias, inputs, self.weight)


class InvariantEncoder(nn.Module):
    """Encoder of invariants (N C) into latent vectors (N Z), the embeddings of its ensemble members side by side.

    Args:
        columns: the numbers of the columns that each kind of member reads (`wsl.data.invariants.columns_by_kind`).
        everything: members that read all columns.
        updates: members that read how far tensors have moved, and where to.
        directions: members that read where tensors have moved to, and all there is of heads.
        hidden: width of each member.
        latent: numbers in the embedding of each member.
        dropout: share of the inputs that all members do without at once in training.

    Raises `InputError` for sizes of which no model can be built, and for `updates` and `directions` where no tensor has moved.
    """

    reads: ClassVar[Literal["invariants"]] = "invariants"

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        *,
        columns: Mapping[str, Sequence[int]],
        everything: int,
        updates: int,
        directions: int,
        hidden: int,
        latent: int,
        dropout: float,
    ):
        super().__init__()
        counts = {"everything": everything, "updates": updates, "directions": directions}
        if min(counts.values()) < 0 or sum(counts.values()) < 1 or min(hidden, latent) < 1 or not 0 <= dropout < 1:
            sizes = ", ".join(f"{name}={size}" for name, size in {**counts, "hidden": hidden, "latent": latent}.items())
            raise InputError(
                "an invariant encoder needs at least one member, a hidden and a latent width of at least 1 and a dropout below 1, "
                f"not {sizes}, dropout={dropout}"
            )
        if updates + directions and not columns["updates"]:
            raise InputError(
                "no tensor of these models has a counterpart in a root, so nothing says how far it moved; "
                "set model.updates and model.directions to 0"
            )
        self.columns = {name: torch.tensor(columns[name], dtype=torch.int64) for name, count in counts.items() if count}
        self.dropout = nn.Dropout(dropout)
        self.members = nn.ModuleDict(
            {name: EnsembleMembers(len(read), counts[name], hidden=hidden, latent=latent) for name, read in self.columns.items()}
        )
        self.register_buffer("mean", torch.zeros(len(columns["everything"])))
        self.register_buffer("deviation", torch.ones(len(columns["everything"])))

    @classmethod
    def rootless(cls, card: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the card of an encoder of as many members for models whose roots are not known: all of them read everything."""
        kinds = ("everything", "updates", "directions")
        return {**card, **dict.fromkeys(kinds, 0), "everything": sum(card[kind] for kind in kinds)}

    def fit_scales(self, invariants: Float[Tensor, "N C"]) -> None:
        """Takes means and deviations from train checkpoints (NaN: not there); a column that never varies is not read."""
        known = invariants.isfinite()
        count = known.sum(0).clamp(min=1)
        mean = invariants.where(known, 0).sum(0) / count
        deviation = ((invariants - mean).where(known, 0).square().sum(0) / count).sqrt()
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > 1e-9, deviation, torch.inf))

    def standardize(self, invariants: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        """Returns deviations from the mean; 0 for what a checkpoint lacks, NaN for one whose weights are not finite."""
        nothing = invariants.isnan().all(1, keepdim=True)
        scaled = ((invariants - self.mean) / self.deviation).clamp(-_EXTREME, _EXTREME).nan_to_num(nan=0.0)
        return scaled.float().masked_fill(nothing, torch.nan)

    def member_embeddings(self, standardized: Float[Tensor, "N C"]) -> dict[str, Float[Tensor, "E N latent"]]:
        """Returns the embeddings of the members, by their kind."""
        inputs = self.dropout(standardized)
        return {name: members(inputs[:, self.columns[name]]) for name, members in self.members.items()}

    def forward(self, invariants: Float[Tensor, "N C"]) -> Float[Tensor, "N Z"]:
        """Returns the latent vectors of checkpoints; NaN for one whose weights are not finite."""
        embeddings = self.member_embeddings(self.standardize(invariants)).values()
        return torch.cat([rearrange(some, "e n z -> n (e z)") for some in embeddings], dim=1)
