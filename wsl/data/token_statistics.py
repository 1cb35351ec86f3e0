r"""Statistics of train checkpoints for models whose initialization depends on data (`wsl.models.autoencoder`).

With U the leading eigenvectors of the second moments of standardised tokens of a role, the best linear code of these tokens is
(Baldi and Hornik, 1989)

    latents = U^T x,    x' = U latents

Gradient descent needs hundreds of steps to find it from random weights; one pass over a few windows finds it at once.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from wsl.data.sources import FileSource
from wsl.data.windows import Windows
from wsl.tokenizers.plan import Plan
from zoo_gen.errors import InputError

WINDOWS = 256
"""Windows that second moments are taken of; with a quarter of them the error of the code is the same to a percent."""

CHECKPOINTS = 1024
"""Checkpoints that energies are measured on, at most."""

POWER = 0.25
"""Power of the dependence of the root's outputs on a number, which its energy is multiplied by where the tokenizer knows it."""

FAINT = 1e-30
"""Energies below are as good as none."""


@dataclass(frozen=True)
class TokenStatistics:
    """Statistics of the tokens of train checkpoints.

    Attributes:
        sources: the checkpoints.
        windows: of their tokens, standardised, as training will draw them.
    """

    sources: Sequence[FileSource]
    windows: Windows

    def second_moments(self, *, roles: int) -> Float[Tensor, "R D D"]:
        """Returns mean products of the entries of standardised tokens, role by role; zeros for a role that no window has.

        Raises `InputError` for a token whose role is none of `roles`.
        """
        width = self.windows.sources[0].plan.width + 1
        products, counts = torch.zeros(roles, width, width), torch.zeros(roles, 1, 1)
        for number in range(min(WINDOWS, self.windows.per_epoch)):
            window = self.windows[number]
            tokens, role = window.values.masked_fill(~window.mask, 0), window.positions[:, 1]
            if role.max() >= roles:
                raise InputError(f"tokens have roles up to {int(role.max())}; set model.roles to more than that (now {roles})")
            for r in role[role >= 0].unique().tolist():
                some = tokens[role == r]
                products[r] += some.T @ some
                counts[r] += len(some)
        return products / counts.clamp(min=1)

    def energy(self, *, blocks: int, roles: int, tokens: int) -> tuple[Float[Tensor, "blocks roles tokens D"], list[Plan]]:
        """Returns the energy of each number of the tokens by position, the largest 1, 0 where no checkpoint has such a token.

        Energies are mean squares over the train checkpoints of a root (or of none), and their geometric mean over roots and shapes
        of models, so that the few that change most do not decide alone. Of more than `CHECKPOINTS` sources, evenly many are left
        out.

        Returns:
            The energies, and the plans of the checkpoints. Raises `InputError` for positions that do not fit.
        """
        sums: dict[tuple[str | None, Plan], Tensor] = {}
        counts: dict[tuple[str | None, Plan], int] = defaultdict(int)
        strength: dict[tuple[str | None, Plan], Tensor] = {}
        for source in self.sources[:: -(-len(self.sources) // CHECKPOINTS)]:
            family = (source.checkpoint.root, source.plan)
            weights, root = source.checkpoint.state_dict(), None if source.root is None else source.root.state_dict()
            squares = source.tokenizer.encode(weights, root=root).values.double().square()
            sums[family] = sums.get(family, 0) + squares
            counts[family] += 1
            if family not in strength:
                strength[family] = source.tokenizer.strength(source.plan, root=root).double().clamp(min=FAINT)
        width = next(iter(sums))[1].width
        logs = torch.zeros(blocks, roles, tokens, width, dtype=torch.float64)
        seen = torch.zeros_like(logs)
        for (root, plan), total in sums.items():
            block, role, index = places = plan.positions.unbind(-1)
            if any(int(place.max()) >= size for place, size in zip(places, (blocks, roles, tokens), strict=True)):
                raise InputError(
                    f"tokens have positions up to block {block.max()}, role {role.max()} and index {index.max()}; "
                    "set model.blocks, model.roles and model.tokens to more"
                )
            mean = (total / counts[root, plan]).clamp(min=FAINT)
            logs[block, role, index] += (mean.log() + POWER * strength[root, plan].log()) * plan.mask
            seen[block, role, index] += plan.mask
        mean = logs / seen.clamp(min=1)
        energy = torch.where(seen > 0, (mean - mean[seen > 0].max()).exp(), 0)
        return energy.float(), list(dict.fromkeys(plan for _, plan in sums))
