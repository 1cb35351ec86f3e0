"""What a training shows while it runs: a bar on a terminal, plain lines in a pipe or a file."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

QUIET = 30.0
"""Seconds without a line after which a plain training says that it lives."""


class Progress:
    """A bar that vanishes when training is done; without a terminal a line for each validation, and one now and then in between."""

    def __init__(self, console: Console, *, done: int, total: int):
        self.console, self.total, self.last = console, total, time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.4f}"))
        shows = console.is_terminal
        self.bar = RichProgress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not shows)
        self.task = self.bar.add_task("training", completed=done, total=total, loss=math.nan)
        if done and not shows:
            console.print(f"resuming after step {done} of {total}")

    def logged(self, step: int, scalars: Mapping[str, float]) -> None:
        """Shows the loss; as a line if nothing has been printed for long."""
        self.bar.update(self.task, loss=scalars["loss"])
        if time.monotonic() - self.last > QUIET:
            self._print(step, f"loss {scalars['loss']:.4f}")

    def validated(self, step: int, scalars: Mapping[str, float]) -> None:
        """Prints the scalars that are not of a role; beside a bar they are in metrics.jsonl alone."""
        self._print(step, ", ".join(f"{name} {value:.4f}" for name, value in scalars.items() if "/" not in name))

    def advance(self, step: int) -> None:
        """Moves the bar."""
        self.bar.update(self.task, completed=step)

    def _print(self, step: int, text: str) -> None:
        if not self.console.is_terminal:
            self.console.print(f"step {step} of {self.total}: {text}", soft_wrap=True, highlight=False)
            self.last = time.monotonic()


@contextmanager
def shown(console: Console, *, done: int, total: int) -> Iterator[Progress]:
    """Shows the progress of steps `done` to `total`."""
    progress = Progress(console, done=done, total=total)
    with progress.bar if console.is_terminal else nullcontext():
        yield progress
