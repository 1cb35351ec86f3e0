"""The journal of a training: metrics.jsonl, and whatever logger the run has beside it."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path

from wsl.training.loggers.logger import Logger
from zoo_gen.files import named_errors, write_text

MEASURED = ("time", "memory_mb", "weights_per_second")
"""Scalars that two runs of one configuration differ in; all others are equal to the bit."""


class Journal:
    """metrics.jsonl: one JSON object per event, with `event`, `step`, its scalars, and `time` (seconds of this process so far).

    Args:
        path: the file.
        logger: what is told of each event, too.
    """

    def __init__(self, path: Path, logger: Logger):
        self.path, self.logger, self.start = path, logger, time.perf_counter()

    def resume(self, step: int) -> None:
        """Cuts the events after a step (a line that was being written when the process died is one of them)."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        complete = [line for line in lines if line.endswith("}")]
        kept = [line for line in complete if json.loads(line)["step"] <= step] if step else []
        write_text(self.path, "".join(f"{line}\n" for line in kept))
        self.logger.start(self.path.parent, after=step)

    def write(self, event: str, step: int, scalars: Mapping[str, float]) -> None:
        """Appends an event; scalars that are not finite become null."""
        finite = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        seconds = round(time.perf_counter() - self.start, 3)
        with named_errors(self.path), self.path.open("a") as file:
            file.write(json.dumps({"event": event, "step": step, **finite, "time": seconds}) + "\n")
        self.logger.log(event, step, {name: value for name, value in finite.items() if value is not None})

    def close(self) -> None:
        """Tells the logger that nothing follows."""
        self.logger.close()
