"""Data-dependent initialization: what a model may ask about the train checkpoints before it is trained."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from wsl.tokenizers.plan import Plan


class TrainStatistics(Protocol):
    """Statistics of the standardised tokens of train checkpoints; each takes a pass over them."""

    def second_moments(self, *, roles: int) -> Float[Tensor, "R D D"]:
        """Returns mean products of the entries of tokens, role by role; zeros for a role that no token has."""
        ...

    def energy(self, *, blocks: int, roles: int, tokens: int) -> tuple[Float[Tensor, "blocks roles tokens D"], Sequence[Plan]]:
        """Returns how much each number of a token varies, by its position, at most 1; and the plans of the checkpoints."""
        ...


@runtime_checkable
class DataDependent(Protocol):
    """A model whose first weights, or choices, follow from the train checkpoints."""

    def initialize(self, statistics: TrainStatistics) -> None:
        """Takes over the statistics, once, before training. Draws no random numbers."""
        ...
