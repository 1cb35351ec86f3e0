"""Checkpoints whose tokens are held in memory, as sources of windows."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from wsl.tokenizers.plan import Plan
from wsl.tokenizers.tokens import Tokens
from wsl.tokenizers.window import Sums, Window, parts_in, sums_of


@dataclass(frozen=True)
class InMemory:
    """Tokens in memory, a `wsl.data.sources.Source`."""

    plan: Plan
    sums: Sums
    values: Float[Tensor, "T D"]

    @classmethod
    def of(cls, tokens: Tokens) -> "InMemory":
        """Takes over the tokens of one checkpoint."""
        return cls(tokens.plan, sums_of(parts_in(tokens.plan, tokens.values)), tokens.values)

    def draw(self, window: Window) -> Float[Tensor, "T D"]:
        """Returns a slice of the values."""
        return self.values[window.start : window.stop]
