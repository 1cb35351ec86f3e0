"""Trainings of rivals in turns: seconds of training against the error of decoded validation checkpoints.

Errors are sums of squared differences between decoded and stored weights, part by part, over

- `changes`: the variance of the part's difference to the root over the train checkpoints (of the weights themselves for heads,
  which have no counterpart): the mean over all weights of all validation checkpoints; to decode the root is an error of about 1;
- `weights`: the variance of the weights themselves, else the same: the error that the peers minimise;
- `models`: as `changes`, each checkpoint's error over what it would be if the root was decoded; the mean over checkpoints. Those
  that hardly moved count as much as those that moved most.
"""

import itertools
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import AdamW

from benchmarks.in_memory import InMemory
from benchmarks.padded_rows import FAINT, counts_of, keys_of
from wsl.data.standardizer import Moments
from wsl.data.sums import sums_of
from wsl.data.windows import Batch, Windows
from wsl.tokenizers.window import Window, parts_in, window_starts
from wsl.training.ema import Average
from wsl.training.trainer import parameter_groups

BURST = 4
"""Steps between two looks at the clock."""

AT_ONCE = 32
"""Windows that are decoded together."""


class Scales(NamedTuple):
    """Mean and deviation of each part over train checkpoints: of differences to the root, and of weights."""

    changes: Mapping[str, Moments]
    weights: Mapping[str, Moments]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What both sides of a race share: batches, optimizer, schedule (constant after `warmup` steps), averaged weights."""

    weight_decay: float
    warmup: int
    gradient_clip_val: float
    ema: float


def now(device: torch.device) -> float:
    """Seconds of a GPU, or CPU seconds of this process, which other jobs on the machine do not count in."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


class Holdout:
    """Validation checkpoints as one tokenizer lays them out.

    Args:
        sources: the checkpoints.
        windows: of a training, for the length of windows and for the standardizer.
        changes: for each checkpoint, its squared change since the root by the name of the part.
        scales: of errors.
    """

    def __init__(self, sources: Sequence[InMemory], windows: Windows, changes: Sequence[Mapping[str, float]], scales: Scales):
        self.changes, self.scales, self.length = changes, scales, windows.length
        self.checkpoints = []
        for source in sources:
            whole = Window.of(source.plan, 0, source.plan.n_tokens)
            logs = windows.standardizer.log_scales(source.plan, source.sums)
            values = windows.standardizer.standardize_window(source.values, whole, logs)
            mask = torch.nn.functional.pad(whole.parts >= 0, (0, 1), value=True)
            self.checkpoints.append((source, whole, Batch(values, mask, whole.positions, torch.tensor(-1))))

    @torch.no_grad()
    def errors(self, model: nn.Module, restore: Callable[[Tensor, Window], Tensor], device: torch.device) -> dict[str, float]:
        """The three errors of a model; `restore` undoes its standardisation."""
        found: dict[str, list[Tensor]] = {"changes": [], "weights": [], "moved": []}
        total = 0.0
        for (source, whole, batch), change in zip(self.checkpoints, self.changes, strict=True):
            decoded = restore(self._decoded(model, batch, device), whole)
            squares = sums_of(parts_in(source.plan, decoded - source.values))[:, 1]
            keys = keys_of(source.plan)
            for name in ("changes", "weights"):
                found[name].append(_scaled(squares, keys, getattr(self.scales, name)))
            found["moved"].append(_scaled(torch.tensor([change[key] for key in keys]), keys, self.scales.changes))
            total += counts_of(source.plan).sum().item()
        errors = {name: torch.stack(values) for name, values in found.items()}
        return {
            "changes": errors["changes"].sum().item() / total,
            "weights": errors["weights"].sum().item() / total,
            "models": (errors["changes"] / errors["moved"]).mean().item(),
        }

    def _decoded(self, model: nn.Module, batch: Batch, device: torch.device) -> Tensor:
        """Decoded tokens of a checkpoint; where windows overlap, the later one counts."""
        total = batch.values.shape[0]
        starts = window_starts(total, self.length)
        pieces = []
        spans = list(itertools.pairwise([*starts, total]))
        for some in (spans[first : first + AT_ONCE] for first in range(0, len(spans), AT_ONCE)):
            windows = [[tensor[start : start + self.length] for tensor in batch[:3]] for start, _ in some]
            values, mask, positions = (torch.stack(tensors).to(device) for tensors in zip(*windows, strict=True))
            narrow = getattr(model, "token_width", values.shape[-1])
            decoded = model(values[..., :narrow], mask[..., :narrow], positions).float().cpu()
            pieces += [window[: following - start] for window, (start, following) in zip(decoded, some, strict=True)]
        return torch.cat(pieces)


def _scaled(squares: Tensor, keys: Sequence[str], moments: Mapping[str, Moments]) -> Tensor:
    """Sum of squares over parts, each over its variance; parts that never vary do not count."""
    deviation = torch.tensor([moments[key][1] for key in keys], dtype=torch.float64)
    return torch.where(deviation > FAINT, squares.double() / deviation**2, 0).sum()


class Mark(NamedTuple):
    """Where a training stood: seconds, steps, and the errors by their names."""

    seconds: float
    steps: int
    errors: dict[str, float]


@dataclass(kw_only=True)
class Contestant:
    """One side of a race: a model in training, and the marks of its course.

    Attributes:
        name: of the side.
        about: what is reported of it.
        fabric: of the device.
        model, objective, windows, holdout, restore: as in training and `Holdout.errors`.
        settings: what it shares with the others.
        batch_size: windows of a step.
        rate: learning rate.
        seconds: of training so far, at first those of preparing the model.
    """

    name: str
    about: dict[str, Any]
    fabric: Fabric
    model: nn.Module
    objective: Callable[[nn.Module, Batch], dict[str, Tensor]]
    windows: Windows
    holdout: Holdout
    restore: Callable[[Tensor, Window], Tensor]
    settings: Settings
    batch_size: int
    rate: float
    seconds: float = 0.0
    steps: int = 0
    weights: float = 0.0
    course: list[Mark] = field(default_factory=list)

    def __post_init__(self) -> None:
        optimizer = AdamW(parameter_groups(self.model, self.settings.weight_decay), lr=self.rate)
        self.wrapped: Any = self.fabric.setup_module(self.model)
        self.optimizer: Any = self.fabric.setup_optimizers(optimizer)
        self.average = Average(self.model, ema=self.settings.ema)
        self.batches = self.windows.batches(range(sys.maxsize), self.batch_size, rank=0, world_size=1, workers=0)
        self.mark()

    @property
    def training(self) -> float:
        """Seconds of training alone, without the preparation."""
        return self.seconds - self.course[0].seconds

    def train(self, *, until: float) -> None:
        """Goes on until it has trained for so many seconds, and is marked."""
        while self.seconds < until:
            start = now(self.fabric.device)
            for _ in range(BURST):
                self.step()
            self.seconds += now(self.fabric.device) - start
        self.mark()

    def step(self) -> None:
        """One step of `wsl.training.trainer`, at a constant rate."""
        batch = Batch(*self.fabric.to_device(tuple(next(self.batches))))
        self.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * min(1, self.steps / self.settings.warmup)
        self.optimizer.zero_grad()
        self.fabric.backward(self.objective(self.wrapped, batch)["loss"])
        self.fabric.clip_gradients(self.wrapped, self.optimizer, max_norm=self.settings.gradient_clip_val, error_if_nonfinite=False)
        self.optimizer.step()
        self.average.update(self.steps)
        self.weights += batch.entries.item()

    def mark(self) -> None:
        """Takes the errors of the averaged weights."""
        with self.average.applied():
            errors = self.holdout.errors(self.model.eval(), self.restore, self.fabric.device)
        self.model.train()
        self.course.append(Mark(self.seconds, self.steps, errors))

    def best(self, measure: str) -> float:
        """The least error so far; infinite where none is a number."""
        return min((m.errors[measure] for m in self.course if math.isfinite(m.errors[measure])), default=math.inf)

    def reached(self, error: float, measure: str) -> float:
        """Seconds to an error, between marks by a straight line in its logarithm; infinite if it was never reached."""
        points = [(mark.seconds, mark.errors[measure]) for mark in self.course]
        if points[0][1] <= error:
            return points[0][0]
        for (before, high), (after, low) in itertools.pairwise(points):
            if low <= error:
                return before + (after - before) * math.log(high / error) / math.log(high / low)
        return math.inf


def race(contestants: Sequence[Contestant], *, seconds: float, turns: int) -> None:
    """Trains each for so many seconds, in turns."""
    for turn in range(1, turns + 1):
        for contestant in contestants:
            contestant.train(until=seconds * turn / turns)


def gain(ours: Contestant, rival: Contestant, measure: str) -> dict[str, float]:
    """Seconds of both to the least error that both reach, and how many times as long the rival takes.

    An error that one had before its first step counts as reached at its first mark: `ratio` is then a bound.
    """
    error = max(ours.best(measure), rival.best(measure))
    own, other = (max(side.reached(error, measure), side.course[1].seconds) for side in (ours, rival))
    return {"error": error, "seconds": own, "rival_seconds": other, "ratio": other / own}
