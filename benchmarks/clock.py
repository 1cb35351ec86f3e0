"""Time of rivals in one process, measured in turns, and the last line of a benchmark."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def seconds(*runs: Callable[[], Any], repeats: int) -> list[float]:
    """Median CPU seconds of each, measured in turns; a first round is not counted."""
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(1 + repeats):
        for run, times in zip(runs, taken, strict=True):
            start = time.process_time()
            run()
            times.append(time.process_time() - start)
    return [float(np.median(times[1:])) for times in taken]


def last_line(figures: Mapping[str, float]) -> str:
    """Returns figures as JSON."""
    return json.dumps({name: round(value, 4) for name, value in figures.items()})
