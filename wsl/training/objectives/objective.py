"""What objectives are: a loss of a model on a batch of windows, and scalars to log beside it."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from wsl.data.sources import FileSource
from wsl.data.windows import Batch
from wsl.run import Run


class Objective(Protocol):
    """A loss on windows of tokens. A class that needs to be told nothing before training inherits methods that do nothing."""

    reads: ClassVar[str] = "tokens"

    @property
    def runs_models(self) -> bool:
        """Whether models are run on images."""
        return False

    @classmethod
    def imageless(cls, card: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Returns the card of what is left of an objective, given its card, where models cannot be run; None: nothing."""
        return None

    def check(self, model: Mapping[str, Any]) -> None:
        """Raises `InputError` for a model card that the objective cannot train."""

    def prepare(self, run: Run, sources: Sequence[FileSource]) -> None:
        """Is told once, before training, whose windows come.

        Args:
            run: in training: its zoo, tokenizer and statistics.
            sources: the checkpoints that `Batch.source` numbers.
        """

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Returns `loss` and other scalars."""
        ...
