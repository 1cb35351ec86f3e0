"""The model encoder: from the invariants of a checkpoint to one latent vector.

Where the encoder of tokens sees a window, this one sees the whole model, by numbers that no order of neurons or heads can change
(`wsl.data.invariants`). Several small networks (members) share the latent vector, so that their errors average out in what a linear
probe makes of it. Some read everything. Others read only how far each tensor has moved and where to, as its root sees it; still
others only where to, and the head: few numbers, which mean the same whatever the root, and which a network learns from few models.
"""

import copy
import math
from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from zoo_gen.errors import InputError

_EXTREME = 10.0
"""Invariants further from the mean than this, in deviations, count as this far."""

CHANGE = "change of "
"""How the columns begin that say what became of a tensor since the root."""

DIRECTIONS = ("relative", "cosine", "along", "turn")
"""How the columns end that say where a tensor has moved to."""

UPDATES = ("l1", "l2", "max", *DIRECTIONS)
"""How the columns end that say how far a tensor has moved, and where to."""


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

    def reset_parameters(self) -> None:
        """Draws fresh weights."""
        self.hidden.reset_parameters()
        self.latents.reset_parameters()


class Linears(nn.Module):
    """E linear maps side by side, each of its own input: (E N F) -> (E N O)."""

    def __init__(self, members: int, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs))
        self.reset_parameters()

    def forward(self, inputs: Float[Tensor, "E N F"]) -> Float[Tensor, "E N O"]:
        """What each map makes of its own input."""
        return torch.baddbmm(self.bias, inputs, self.weight)

    def reset_parameters(self) -> None:
        """Draws fresh weights, as `nn.Linear` does."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)


class InvariantEncoder(nn.Module):
    """Latent vectors of checkpoints (N Z), the member_embeddings of its members side by side.

    Args:
        columns: of the invariants that are read.
        everything: members that read all columns.
        updates: members that read how far tensors have moved, and where to (`UPDATES`).
        directions: members that read where tensors have moved to (`DIRECTIONS`), and all there is of heads.
        hidden: width of each member.
        latent: numbers that each member gives.
        dropout: share of the inputs that all members do without at once in training.

    Raises `InputError` for sizes of which nothing can be built, and for `updates` and `directions` where no tensor has moved.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, columns: Sequence[str], *, everything: int, updates: int, directions: int, hidden: int, latent: int, dropout: float
    ):
        super().__init__()
        counts = {"everything": everything, "updates": updates, "directions": directions}
        if min(counts.values()) < 0 or sum(counts.values()) < 1 or min(hidden, latent) < 1 or not 0 <= dropout < 1:
            sizes = ", ".join(f"{name}={size}" for name, size in {**counts, "hidden": hidden, "latent": latent}.items())
            raise InputError(
                "a model encoder needs at least one member, a hidden and a latent width of at least 1 and a dropout below 1, not "
                f"{sizes}, dropout={dropout}"
            )
        self.columns = list(columns)
        self.reads = {name: _read_by(name, self.columns) for name, count in counts.items() if count}
        told = [name for name in self.reads if name != "everything"]
        if told and not any(column.startswith(CHANGE) for column in self.columns):
            raise InputError(
                "no tensor of these models has a counterpart in a root, so nothing says how far it moved; "
                f"set {' and '.join(told)} to 0"
            )
        self.dropout = nn.Dropout(dropout)
        self.members = nn.ModuleDict(
            {name: EnsembleMembers(len(reads), counts[name], hidden=hidden, latent=latent) for name, reads in self.reads.items()}
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

    def member_embeddings(self, standardized: Float[Tensor, "N C"]) -> dict[str, Float[Tensor, "E N latent"]]:
        """The member_embeddings of the members in the latent vector, by what they read."""
        inputs = self.dropout(standardized)
        return {name: members(inputs[:, self.reads[name]]) for name, members in self.members.items()}

    def forward(self, invariants: Float[Tensor, "N C"]) -> Float[Tensor, "N Z"]:
        """Latent vectors of checkpoints; NaN for one whose weights are not finite."""
        member_embeddings = self.member_embeddings(self.standardize(invariants)).values()
        return torch.cat([rearrange(share, "e n z -> n (e z)") for share in member_embeddings], dim=1)

    def untrained(self) -> "InvariantEncoder":
        """This encoder before training: the same scales, fresh weights."""
        fresh = copy.deepcopy(self)
        for members in fresh.members.values():
            members.reset_parameters()  # type: ignore[operator]
        return fresh


def _read_by(name: str, columns: Sequence[str]) -> Tensor:
    """Which columns members of a kind read. What has no change is a head, or of another shape than the root's: both are new."""
    tensors = [column.rpartition("/")[0] for column in columns]
    changed = {tensor.removeprefix(CHANGE) for tensor in tensors if tensor.startswith(CHANGE)}
    reads = {
        "everything": lambda tensor, what: True,
        "updates": lambda tensor, what: tensor.startswith(CHANGE) and what in UPDATES,
        "directions": lambda tensor, what: what in DIRECTIONS if tensor.startswith(CHANGE) else tensor not in changed,
    }[name]
    whats = [column.rpartition("/")[2] for column in columns]
    return torch.tensor([i for i, about in enumerate(zip(tensors, whats, strict=True)) if reads(*about)], dtype=torch.int64)
