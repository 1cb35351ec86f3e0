"""What objectives are: a loss of a model on a batch of windows, and scalars to log beside it."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from wsl.data.sources import FileSource
from wsl.data.windows import Batch
from wsl.run import Run


class Objective(Protocol):
    """A loss on windows of tokens."""

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Returns `loss` and other scalars."""
        ...


@runtime_checkable
class NeedsModels(Objective, Protocol):
    """An objective that needs more than tokens: the checkpoints themselves."""

    def prepare(self, run: Run, sources: Sequence[FileSource]) -> None:
        """Is told once, before training, whose windows come.

        Args:
            run: in training: its zoo, tokenizer and statistics.
            sources: the checkpoints that `Batch.source` numbers.
        """
        ...
