"""The journal of a training: metrics.jsonl, and whatever logger the run has beside it."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path

from wsl.training.loggers.logger import Logger
from zoo_gen.errors import InputError
from zoo_gen.files import named_errors, write_text
from zoo_gen.reader import shortened

MEASURED = ("time", "cpu_time", "memory_mb", "weights_per_second")
"""Scalars that two runs of one configuration differ in; all others are equal to the bit."""


class Journal:
    """metrics.jsonl: one JSON object per event, with `event`, `step`, its scalars, `time` (seconds of this process so far), and
    `cpu_time` (CPU seconds of all its threads, those of the preparation included).

    Args:
        path: the file.
        logger: what is told of each event, too.
        cpu_start: CPU seconds of this process when the training began; None: it begins now.
    """

    def __init__(self, path: Path, logger: Logger, *, cpu_start: float | None = None):
        self.path, self.logger, self.start = path, logger, time.perf_counter()
        self.cpu_start = time.process_time() if cpu_start is None else cpu_start

    def resume(self, step: int) -> None:
        """Cuts the events after a step (a line that was being written when the process died is one of them).

        Raises `InputError` if another line is no event.
        """
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        complete = [line for line in lines if line.endswith("}")]
        kept = [line for line in complete if self._step(line) <= step] if step else []
        write_text(self.path, "".join(f"{line}\n" for line in kept))
        self.logger.start(self.path.parent, after=step)

    def _step(self, line: str) -> int:
        """Returns the step of an event. Raises `InputError` for a line that is none."""
        try:
            found = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{self.path} has a line that is no event ({shortened(line)}); delete it") from error
        if not isinstance(found, int):
            raise InputError(f"{self.path} has an event without a step ({shortened(line)}); delete its line")
        return found

    def write(self, event: str, step: int, scalars: Mapping[str, float]) -> None:
        """Appends an event; scalars that are not finite become null."""
        finite = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        seconds = {"time": time.perf_counter() - self.start, "cpu_time": time.process_time() - self.cpu_start}
        measured = {name: round(value, 3) for name, value in seconds.items()}
        with named_errors(self.path), self.path.open("a") as file:
            file.write(json.dumps({"event": event, "step": step, **finite, **measured}) + "\n")
        self.logger.log(event, step, {name: value for name, value in finite.items() if value is not None})

    def close(self) -> None:
        """Tells the logger that nothing follows."""
        self.logger.close()
