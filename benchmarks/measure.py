"""What benchmarks measure with: time of rivals in turns, peak memory of a process, random weights, the last line on stdout."""

import json
import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo_gen.architecture import skeleton


def seconds(*runs: Callable[[], Any], repeats: int) -> list[float]:
    """Median CPU seconds of each, measured in turns; a first round is not counted."""
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(1 + repeats):
        for run, times in zip(runs, taken, strict=True):
            start = time.process_time()
            run()
            times.append(time.process_time() - start)
    return [float(np.median(times[1:])) for times in taken]


def process(threads: int) -> ProcessPoolExecutor:
    """A process of its own, with so many threads."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), torch.set_num_threads, (threads,))


def alone(function: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """Calls a function in a process of one thread that does nothing else."""
    with process(1) as pool:
        return pool.submit(function, *arguments).result()


def peak(*, reset: bool = False) -> int:
    """The largest resident set of this process in bytes, pages of mapped files included; from now on, by `reset`."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def random_weights(architecture: Mapping[str, Any]) -> dict[str, Tensor]:
    """Random weights of a timm model."""
    generator = torch.Generator().manual_seed(0)
    shapes = {name: tensor.shape for name, tensor in skeleton(architecture).state_dict().items()}
    return {name: torch.empty(shape).normal_(std=0.02, generator=generator) for name, shape in shapes.items()}


def fine_tuned(root: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each weight moved by about a twentieth of its size, in two roundings, as in many steps."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.empty_like(weight).normal_(std=1e-3, generator=generator).add_(weight).mul_(0.999)
        for name, weight in root.items()
    }


def last_line(figures: Mapping[str, float]) -> str:
    """Returns figures as JSON."""
    return json.dumps({name: round(value, 4) for name, value in figures.items()})
