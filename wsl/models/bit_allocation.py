"""Allocation: which numbers of a checkpoint's tokens are worth keeping, by how much they vary.

With a fixed number of latents, squared error is least where those of the largest energy are kept (reverse water-filling for
numbers of full precision). Energies are mean squares over the train checkpoints of a root, and their geometric mean over roots and
shapes of models, so that the few that change most do not decide alone. Where the tokenizer knows how strongly outputs feel each
number, that counts too.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from wsl.data.sources import FileSource
from wsl.tokenizers.fisher_basis import FisherBasis
from wsl.tokenizers.plan import Plan
from zoo_gen.errors import InputError

CHECKPOINTS = 1024
"""Checkpoints that energies are measured on, at most."""

POWER = 0.25
"""Of how strongly the root's outputs feel a number, which its energy is weighed with where the tokenizer knows."""

FAINT = 1e-30
"""Energies below are as good as none."""


def energy_of(
    sources: Sequence[FileSource], *, blocks: int, roles: int, tokens: int
) -> tuple[Float[Tensor, "blocks roles tokens D"], list[Plan]]:
    """Energy of each number of the tokens by position, the largest 1, 0 where no checkpoint has such a token; and the plans.

    Of more than `CHECKPOINTS` sources, evenly many are left out. Raises `InputError` for positions that do not fit.
    """
    sums: dict[tuple[str, Plan], Tensor] = {}
    counts: dict[tuple[str, Plan], int] = defaultdict(int)
    felt: dict[tuple[str, Plan], Tensor] = defaultdict(lambda: torch.ones(()))
    for source in sources[:: -(-len(sources) // CHECKPOINTS)]:
        family = (source.checkpoint.root, source.plan)
        weights, root = source.checkpoint.state_dict(), source.root.state_dict()
        squares = source.tokenizer.encode(weights, root=root).values.double().square()
        sums[family] = sums.get(family, 0) + squares
        counts[family] += 1
        if family not in felt and isinstance(source.tokenizer, FisherBasis):
            felt[family] = source.tokenizer.strength(source.plan, root=root).double().clamp(min=FAINT)
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
        mean = (total / counts[root, plan]).clamp(min=FAINT)
        logs[block, role, index] += (mean.log() + POWER * felt[root, plan].log()) * plan.mask
        seen[block, role, index] += plan.mask
    mean = logs / seen.clamp(min=1)
    energy = torch.where(seen > 0, (mean - mean[seen > 0].max()).exp(), 0)
    return energy.float(), list(dict.fromkeys(plan for _, plan in sums))


def levels_of(
    energy: Float[Tensor, "blocks roles tokens D"], plans: Iterable[Plan], *, compression_ratio: float, longest: int
) -> Float[Tensor, " longest+1"]:
    """For each number of tokens of a checkpoint, the energy above which numbers are kept.

    It is the lowest at which no plan of so many tokens keeps more numbers than its weights over `compression_ratio`, with the log-scales of its
    groups. Other checkpoints, which none of the plans is of, have the highest of these levels.
    Raises `InputError` where not even the log-scales fit.
    """
    found: dict[int, float] = {}
    for plan in plans:
        block, role, index = plan.positions.unbind(-1)
        budget = int(plan.n_weights / compression_ratio) - len(plan.groups)
        if budget < 1:
            raise InputError(f"model.compression_ratio {compression_ratio} leaves nothing of {plan.n_weights} weights; choose a smaller one")
        energies = energy[block, role, index].flatten().sort(descending=True).values  # padding of one plan may be another's weight
        level = float(energies[budget]) if budget < len(energies) else 0.0
        found[plan.n_tokens] = max(level, found.get(plan.n_tokens, 0.0))
    levels = torch.full((longest + 1,), max(found.values()))
    for tokens, level in found.items():
        levels[tokens] = level
    return levels
