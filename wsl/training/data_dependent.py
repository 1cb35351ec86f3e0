"""What models that look at their training set before they are trained have in common."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from wsl.data.sources import FileSource
from wsl.data.windows import Windows


@runtime_checkable
class DataDependent(Protocol):
    """A model whose first weights, or whose choices, follow from the train checkpoints."""

    def initialize(self, sources: Sequence[FileSource], windows: Windows) -> None:
        """Is told once, before training, what comes. Draws no random numbers.

        Args:
            sources: the train checkpoints.
            windows: what training will draw of them, standardised.
        """
        ...
