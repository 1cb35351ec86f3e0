"""What a training shows while it runs: a bar on a terminal, plain lines in a pipe or a file."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

QUIET = 30.0
"""Seconds without a line after which a plain training says that it lives."""


class Progress(Protocol):
    """What the training loop tells."""

    def logged(self, step: int, scalars: Mapping[str, float]) -> None:
        """Scalars of training."""
        ...

    def validated(self, step: int, scalars: Mapping[str, float]) -> None:
        """Scalars of validation."""
        ...

    def advance(self, step: int) -> None:
        """A step is done."""
        ...


@contextmanager
def shown(console: Console, *, done: int, total: int) -> Iterator[Progress]:
    """Shows the progress of steps `done` to `total`."""
    if not console.is_terminal:
        yield Lines(console, done=done, total=total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.4f}"))
    with RichProgress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        yield Bar(progress, done=done, total=total)


class Bar:
    """A progress bar that vanishes when training is done."""

    def __init__(self, progress: RichProgress, *, done: int, total: int):
        self.progress = progress
        self.task = progress.add_task("training", completed=done, total=total, loss=math.nan)

    def logged(self, step: int, scalars: Mapping[str, float]) -> None:
        """Shows the loss."""
        self.progress.update(self.task, loss=scalars["loss"])

    def validated(self, step: int, scalars: Mapping[str, float]) -> None:
        """Shows nothing: metrics.jsonl has it."""

    def advance(self, step: int) -> None:
        """Moves the bar."""
        self.progress.update(self.task, completed=step)


class Lines:
    """A line for each validation, and one now and then in between."""

    def __init__(self, console: Console, *, done: int, total: int):
        self.console, self.total, self.last = console, total, time.monotonic()
        if done:
            console.print(f"resuming after step {done} of {total}")

    def logged(self, step: int, scalars: Mapping[str, float]) -> None:
        """Prints the loss if nothing has been printed for long."""
        if time.monotonic() - self.last > QUIET:
            self._print(step, f"loss {scalars['loss']:.4f}")

    def validated(self, step: int, scalars: Mapping[str, float]) -> None:
        """Prints the scalars that are not of a role."""
        self._print(step, ", ".join(f"{name} {value:.4f}" for name, value in scalars.items() if "/" not in name))

    def advance(self, step: int) -> None:
        """Prints nothing."""

    def _print(self, step: int, text: str) -> None:
        self.console.print(f"step {step} of {self.total}: {text}", soft_wrap=True, highlight=False)
        self.last = time.monotonic()
