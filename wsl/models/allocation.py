"""Which numbers of a checkpoint's tokens are latents: those of the largest energy, as many as a compression ratio allows."""

from collections.abc import Iterable, Sequence

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wsl.tokenizers.plan import Plan
from zoo_gen.errors import InputError

LENGTHS = 64
"""Different numbers of tokens of checkpoints that levels are remembered of; others have the highest level."""


class Allocation(nn.Module):
    """A choice of numbers, the same for all checkpoints of a shape, whatever the root.

    With a fixed number of latents, squared error is least where the numbers of the largest energy are kept: unevenly many, as in
    reverse water-filling. Energies go by block, role and place within the group; far places share one.

    Args:
        compression_ratio: weights of a checkpoint per number that is kept, the log-scales of its groups among them, at least.
        width: numbers per token (D).
        blocks, roles: largest block index and role id, plus one.
        places: places within a group that have energies.
    """

    energy: Tensor
    lengths: Tensor
    levels: Tensor

    def __init__(self, *, compression_ratio: float, width: int, blocks: int, roles: int, places: int):
        super().__init__()
        if not compression_ratio >= 1:
            raise InputError(f"model.compression_ratio must be at least 1, not {compression_ratio}")
        if min(blocks, roles) < 1 or places < 2:
            raise InputError(
                f"model.blocks and model.roles must be at least 1, model.places at least 2, not {blocks}, {roles}, {places}"
            )
        self.compression_ratio, self.places = compression_ratio, places
        self.register_buffer("energy", torch.zeros(blocks, roles, places, width))
        self.register_buffer("lengths", torch.full((LENGTHS,), -1))
        self.register_buffer("levels", torch.zeros(LENGTHS))

    def place(self, index: Int[Tensor, "*T"]) -> Int[Tensor, "*T"]:
        """Where the energy of a token stands: its index in the group, on a scale of logarithms in the second half."""
        half = self.places // 2
        far = half + (8 * (index.clamp(min=half) / half).log2()).long()
        return torch.where(index < half, index, far).clamp(0, self.places - 1)

    def check(self, positions: Int[Tensor, "*T P"]) -> None:
        """Raises `InputError` for positions of blocks or roles that there are no energies for."""
        blocks, roles = self.energy.shape[:2]
        block, role = (int(positions[..., i].max()) for i in (0, 1))
        if block >= blocks or role >= roles:
            raise InputError(
                f"tokens have blocks up to {block} and roles up to {role}; set model.blocks and model.roles to more than that "
                f"(now {blocks} and {roles}), and train anew"
            )

    def measured(self, energies: Iterable[tuple[Plan, Float[Tensor, "T D"]]]) -> Float[Tensor, "blocks roles places D"]:
        """Returns geometric means of energies of several shapes and roots, the largest 1; 0 where there is no such token.

        Raises `InputError` for positions that do not fit.
        """
        blocks, roles, places, width = self.energy.shape
        logs, seen = (torch.zeros(blocks * roles * places, width, dtype=torch.float64) for _ in range(2))
        for plan, energy in energies:
            self.check(plan.positions)
            block, role, index = plan.positions.unbind(-1)
            where = (block * roles + role) * places + self.place(index)
            logs.index_add_(0, where, energy.double().clamp(min=FAINT).log() * plan.mask)
            seen.index_add_(0, where, plan.mask.double())
        mean = logs / seen.clamp(min=1)
        return torch.where(seen > 0, (mean - mean[seen > 0].max()).exp(), 0).float().view(blocks, roles, places, width)

    @torch.no_grad()
    def allocate(self, energy: Float[Tensor, "blocks roles places D"], plans: Sequence[Plan]) -> None:
        """Chooses what is kept: no checkpoint of these plans has more numbers than its weights over `compression_ratio`.

        Raises `InputError` for positions that do not fit, and where not even the log-scales do.
        """
        found: dict[int, float] = {}
        for plan in plans:
            self.check(plan.positions)
            budget = int(plan.n_weights / self.compression_ratio) - len(plan.groups)
            if budget < 1:
                raise InputError(
                    f"model.compression_ratio {self.compression_ratio} leaves nothing of {plan.n_weights} weights; "
                    "choose a smaller one"
                )
            block, role, index = plan.positions.unbind(-1)
            own = energy[block, role, self.place(index)]  # of padding, too, which may be a weight of another plan
            of_plan = own.flatten().sort(descending=True).values
            level = float(of_plan[budget]) if budget < len(of_plan) else 0.0
            found[plan.n_tokens] = max(level, found.get(plan.n_tokens, 0.0))
        highest = max(found.values())
        known = sorted(found)[:LENGTHS]
        self.energy.copy_(energy)
        self.lengths.fill_(-1)[: len(known)] = torch.tensor(known)
        self.levels.fill_(highest)[: len(known)] = torch.tensor([found[length] for length in known])

    def forward(self, positions: Int[Tensor, "B T P"], total: Int[Tensor, " B"]) -> Bool[Tensor, "B T D"]:
        """What is kept of each token, given its position and the number of tokens of its whole checkpoint; nothing of padding.

        Raises `InputError` for positions that do not fit.
        """
        self.check(positions)
        block, role, index = positions.clamp(min=0).unbind(-1)
        match = total[:, None] == self.lengths
        level = torch.where(match.any(1), (match * self.levels).sum(1), self.levels.max())
        return (self.energy[block, role, self.place(index)] > rearrange(level, "b -> b 1 1")) & (positions[..., :1] >= 0)


FAINT = 1e-30
"""Energies below are as good as none."""
