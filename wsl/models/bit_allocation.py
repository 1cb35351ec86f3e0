"""Bit allocation: which numbers of the tokens of a checkpoint are kept, given how much each of them varies.

With a fixed number of latents, squared error is least where the numbers of the largest energy are kept: reverse water-filling for
numbers of full precision.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from wsl.tokenizers.plan import Plan
from zoo_gen.errors import InputError


def levels_of(
    energy: Float[Tensor, "blocks roles tokens D"], plans: Iterable[Plan], *, compression_ratio: float, longest: int
) -> Float[Tensor, " longest+1"]:
    """Returns the energy above which numbers are kept, for each number of tokens of a checkpoint.

    A level is the lowest at which no plan of so many tokens keeps more numbers, the log-scales of its groups among them, than its
    weights over `compression_ratio`. Checkpoints that none of the plans is of have the highest of these levels.
    Raises `InputError` where not even the log-scales fit.
    """
    found: dict[int, float] = {}
    for plan in plans:
        block, role, index = plan.positions.unbind(-1)
        budget = int(plan.n_weights / compression_ratio) - len(plan.groups)
        if budget < 1:
            raise InputError(
                f"model.compression_ratio {compression_ratio} leaves nothing of {plan.n_weights} weights; choose a smaller one"
            )
        energies = energy[block, role, index].flatten().sort(descending=True).values  # padding of one plan may be another's weight
        level = float(energies[budget]) if budget < len(energies) else 0.0
        found[plan.n_tokens] = max(level, found.get(plan.n_tokens, 0.0))
    levels = torch.full((longest + 1,), max(found.values()))
    for tokens, level in found.items():
        levels[tokens] = level
    return levels
