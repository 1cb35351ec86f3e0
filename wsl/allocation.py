"""Allocation: which numbers of a checkpoint's tokens are worth keeping, by how much they vary.

With a fixed number of latents, squared error is least where those of the largest energy are kept (reverse water-filling for
numbers of full precision). Energies are mean squares over the train checkpoints of a root, and their geometric mean over roots and
shapes of models, so that the few that change most do not decide alone.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wsl.sources import Stored
from wsl.tokenizers.plan import Plan
from zoo_gen.errors import InputError

CHECKPOINTS = 1024
"""Checkpoints that energies are measured on, at most."""

FAINT = 1e-30
"""Energies below are as good as none."""


def energy_of(
    sources: Sequence[Stored], *, blocks: int, roles: int, tokens: int
) -> tuple[Float[Tensor, "blocks roles tokens D"], list[Plan]]:
    """Energy of each number of the tokens, by their position; 0 where no checkpoint has such a token. And the plans there are.

    Of more than `CHECKPOINTS` sources, evenly many are left out. Raises `InputError` for positions that do not fit.
    """
    sums: dict[tuple[str, Plan], Tensor] = {}
    counts: dict[tuple[str, Plan], int] = defaultdict(int)
    for source in sources[:: -(-len(sources) // CHECKPOINTS)]:
        family = (source.checkpoint.root, source.plan)
        weights, root = source.checkpoint.state_dict(), source.root.state_dict()
        squares = source.tokenizer.encode(weights, root=root).values.double().square()
        sums[family] = sums.get(family, 0) + squares
        counts[family] += 1
    width = next(iter(sums))[1].width
    logs = torch.zeros(blocks, roles, tokens, width, dtype=torch.float64)
    seen = torch.zeros_like(logs)
    for (root, plan), total in sums.items():
        block, role, index = places = plan.positions.unbind(-1)
        if any(int(place.max()) >= size for place, size in zip(places, (blocks, roles, tokens), strict=True)):
            raise InputError(
                f"tokens have positions up to block {block.max()}, role {role.max()} and index {index.max()}; set model.blocks, "
                "model.roles and model.tokens to more"
            )
        logs[block, role, index] += (total / counts[root, plan]).clamp(min=FAINT).log() * plan.mask
        seen[block, role, index] += plan.mask
    energy = torch.where(seen > 0, (logs / seen.clamp(min=1)).exp(), 0)
    return energy.float(), list(dict.fromkeys(plan for _, plan in sums))


def kept_of(
    energy: Float[Tensor, "blocks roles tokens D"], plans: Iterable[Plan], *, rate: float
) -> Bool[Tensor, "blocks roles tokens D+1"]:
    """What is kept: all numbers above one energy, the lowest at which no plan keeps more than its weights over `rate`.

    The last coordinate, the log-scale of a group, is kept for the first token of each group, and counted.
    Raises `InputError` where not even the log-scales fit.
    """
    level = 0.0
    for plan in plans:
        block, role, index = plan.positions.unbind(-1)
        budget = int(plan.n_weights / rate) - len(plan.groups)
        if budget < 1:
            raise InputError(f"model.rate {rate} leaves nothing of {plan.n_weights} weights; choose a smaller one")
        energies = energy[block, role, index][plan.mask].sort(descending=True).values
        level = max(level, float(energies[budget])) if budget < len(energies) else level
    kept = torch.zeros(*energy.shape[:3], energy.shape[3] + 1, dtype=torch.bool)
    kept[..., :-1] = energy > level
    kept[:, :, 0, -1] = True
    return kept
