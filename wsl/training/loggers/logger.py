"""What loggers are, and the one that does nothing: metrics.jsonl has everything."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Logger(Protocol):
    """Where scalars go beside metrics.jsonl. Only the process that writes the run is told."""

    def start(self, folder: Path, *, after: int) -> None:
        """Is told once, before anything else.

        Args:
            folder: of the run.
            after: step that the training goes on after; events of later steps are told again, 0 for a new training.
        """

    def log(self, event: str, step: int, scalars: Mapping[str, float]) -> None:
        """Takes the finite scalars of an event (`train`, `validation`)."""

    def close(self) -> None:
        """Writes what is left."""


class Nothing(Logger):
    """A logger that keeps nothing."""
