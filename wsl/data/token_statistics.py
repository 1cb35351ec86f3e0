r"""Statistics of train checkpoints for a model whose initialization depends on data (`wsl.models.hyperrep`)."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from wsl.data.sources import FileSource
from wsl.data.standardizer import Standardizer
from wsl.data.windows import Batch, Windows
from wsl.tokenizers.plan import Plan
from wsl.tokenizers.tokens import Tokens

CHECKPOINTS = 1024
"""Checkpoints that energies are measured on, at most."""

WHOLES = 96
"""Checkpoints that are looked at as a whole, with their side information, at most."""

POWER = 0.25
"""Power of the dependence of the root's outputs on a number, which its energy is multiplied by where the tokenizer knows it."""

FAINT = 1e-30
"""Dependence below this is as good as none."""


@dataclass(frozen=True)
class TokenStatistics:
    """Statistics of the tokens of train checkpoints.

    Attributes:
        sources: the checkpoints.
        windows: of the tokens of those that training will draw from, standardised, with their side information.
    """

    sources: Sequence[FileSource]
    windows: Windows

    @property
    def plans(self) -> list[Plan]:
        """The plans of the checkpoints, each once."""
        return list(dict.fromkeys(source.plan for source in self.sources))

    def wholes(self) -> Iterator[tuple[FileSource, Batch]]:
        """Yields some final checkpoints, evenly chosen of those that training draws from, each with all its tokens."""
        standardizer, sources = self.windows.standardizer, [cast(FileSource, source) for source in self.windows.sources]
        final = [number for number, source in enumerate(sources) if source.checkpoint.final] or [*range(len(sources))]
        for number in final[:: -(-len(final) // WHOLES)]:
            source = sources[number]
            values = standardizer.standardize(encoded(source))
            mask = functional.pad(source.plan.mask, (0, 1), value=True)
            side = values.new_zeros(len(values), 0) if self.windows.sides is None else self.windows.sides[number]
            whole = Batch(values, mask, source.plan.positions, side, torch.tensor(len(values)), torch.tensor(number))
            yield source, Batch(*(tensor[None] for tensor in whole))

    def energies(
        self, residuals: Iterable[tuple[FileSource, Float[Tensor, "1 T D"]]] | None = None
    ) -> Iterator[tuple[Plan, Float[Tensor, "T D"]]]:
        """Yields the energy of each number of the tokens, for each root (or none) and plan.

        Energies are mean squares over the checkpoints of a root, so that the few that change most do not decide alone, times a
        power of the dependence of the root's outputs on the number.

        Args:
            residuals: directions that are measured in place of the checkpoints' own.
        """
        sums: dict[tuple[str | None, Plan], Tensor] = {}
        counts: dict[tuple[str | None, Plan], int] = defaultdict(int)
        strength: dict[tuple[str | None, Plan], Tensor] = {}
        for source, values in self._values() if residuals is None else self._unscaled(residuals):
            family = (source.checkpoint.root, source.plan)
            sums[family] = sums.get(family, 0) + values.double().square()
            counts[family] += 1
            if family not in strength:
                root = None if source.root is None else source.root.state_dict()
                strength[family] = source.tokenizer.strength(source.plan, root=root).double().clamp(min=FAINT)
        for family, total in sums.items():
            yield family[1], total / counts[family] * strength[family] ** POWER

    def _values(self) -> Iterator[tuple[FileSource, Tensor]]:
        for source in self.sources[:: -(-len(self.sources) // CHECKPOINTS)]:
            yield source, encoded(source).values

    def _unscaled(self, residuals: Iterable[tuple[FileSource, Tensor]]) -> Iterator[tuple[FileSource, Tensor]]:
        standardizer: Standardizer = self.windows.standardizer
        for source, directions in residuals:
            scale = standardizer.standardize(encoded(source))[:, -1:]
            restored, zero = (
                standardizer.restore(torch.cat([one, scale], dim=-1), source.plan)
                for one in (directions[0], torch.zeros_like(directions[0]))
            )
            yield source, restored - zero


def encoded(source: FileSource) -> Tokens:
    """The tokens of a checkpoint in files."""
    root = None if source.root is None else source.root.state_dict()
    return source.tokenizer.encode(source.checkpoint.state_dict(), root=root)
