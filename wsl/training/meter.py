"""What a training measures between two lines of its journal: means of scalars over parts, devices and steps; speed; memory."""

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from lightning_fabric import Fabric
from torch import Tensor


class Meter:
    """The scalars of the steps since the last log, and how many weights they have seen.

    Args:
        fabric: of this process; all of them call `add` alike.
        since_log: scalars that a killed training had not logged yet.
    """

    def __init__(self, fabric: Fabric, since_log: list[dict[str, Tensor]]):
        self.fabric, self.since_log = fabric, since_log
        self.restart()

    def restart(self) -> None:
        """Starts the clock, after what is no training (validation, writing)."""
        self._start, self._weights = time.perf_counter(), list[Tensor]()

    def add(self, parts: Sequence[Mapping[str, Tensor]], weights: Tensor) -> None:
        """Takes the scalars of the parts of a step that this process has run, and the number of weights of the whole step.

        What is not a number in a part (the error of a role it does not have) does not count, but for the loss.
        """
        values = torch.stack([torch.stack([value.float() for value in scalars.values()]) for scalars in parts])
        counted = torch.tensor([name == "loss" for name in parts[0]], device=values.device) | ~values.isnan()
        sums = torch.stack([values.where(counted, 0).sum(0), counted.sum(0).float()])
        total, count = cast(Tensor, self.fabric.all_reduce(sums, reduce_op="sum"))
        self.since_log.append(dict(zip(parts[0], (total / count).unbind(), strict=True)))
        self._weights.append(weights)

    def means(self) -> dict[str, float]:
        """Returns the means over the steps, and forgets them; what is not a number is left out again, but for the loss."""
        means = {name: torch.stack([s[name] for s in self.since_log]).nanmean().item() for name in self.since_log[0]}
        means["loss"] = torch.stack([s["loss"] for s in self.since_log]).mean().item()
        self.since_log.clear()
        return means

    def measured(self) -> dict[str, float]:
        """Returns the peak of memory, and weights per second since the clock was started, on all devices."""
        speed = torch.stack(self._weights).sum().item() / (time.perf_counter() - self._start)
        if self.fabric.device.type == "cuda":
            memory = torch.cuda.max_memory_allocated(self.fabric.device) / 1e6
        else:  # of the process; macOS counts bytes, Linux kilobytes
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
        return {"memory_mb": round(memory, 1), "weights_per_second": round(speed)}
