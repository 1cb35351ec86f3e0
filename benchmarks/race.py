"""Trainings of rivals in turns, in one process: CPU seconds of training against the error of decoded validation checkpoints.

An error is the mean over all weights of all validation checkpoints of the squared difference between decoded and stored weights,
over the variance of their part over the train checkpoints:

- `changes`: variance of the part's task vector (of the weights for heads, which have no counterpart). The root's is about 1.
- `weights`: variance of the weights themselves. This is the error that the peers minimise.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from benchmarks.padded_rows import FAINT, moments_of
from wsl.data.token_inputs import TokenInputs
from wsl.data.windows import Batch
from wsl.tokenizers.plan import Plan
from wsl.tokenizers.residual import Residual
from wsl.tokenizers.tokens import Tokens
from wsl.tokenizers.window import Sums, Window, sums_in
from wsl.training.ema import Average
from wsl.training.trainer import Loss, parameter_groups
from zoo_gen import Checkpoint, Zoo

EMA = 0.99
"""Decay of the averaged weights that are validated."""

RISE, START = 0.3, 1 / 25
"""Of a cycle of the rate: the share of the training in which it goes up, and where it starts (the defaults of PyTorch)."""

ROW_PARTS = (1, 2, 4, 8)
"""Widths of rows that are tried: the widest row over each."""

Pair = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]
"""Weights of a checkpoint and of its root."""


@dataclass(frozen=True)
class InMemory:
    """The tokens of a checkpoint in memory, a `wsl.data.sources.Source`."""

    plan: Plan
    sums: Sums
    values: Float[Tensor, "T D"]

    @classmethod
    def of(cls, tokens: Tokens) -> "InMemory":
        """Takes over the tokens of one checkpoint."""
        return cls(tokens.plan, sums_in(tokens.plan, tokens.values), tokens.values)

    def draw(self, window: Window) -> Float[Tensor, "T D"]:
        """Returns a slice of the values."""
        return self.values[window.start : window.stop]


def finite_pairs(checkpoints: Zoo, count: int) -> tuple[list[tuple[Checkpoint, Checkpoint]], list[Pair]]:
    """Returns some checkpoints, evenly over all, with their roots, and the weights of both; without those that diverged."""
    chosen = [checkpoints[int(i)] for i in np.linspace(0, len(checkpoints) - 1, min(count, len(checkpoints))).round()]
    roots = {name: checkpoints.final(name) for name in {str(checkpoint.root) for checkpoint in chosen}}
    of_roots = {name: root.state_dict() for name, root in roots.items()}
    found, pairs = [], []
    for checkpoint in chosen:
        weights = checkpoint.state_dict()
        if all(tensor.isfinite().all() for tensor in weights.values()):
            found.append((checkpoint, roots[str(checkpoint.root)]))
            pairs.append((weights, of_roots[str(checkpoint.root)]))
    return found, pairs


class Holdout:
    """Validation checkpoints to decode, and the scales of errors: the variances over train checkpoints."""

    def __init__(self, train: Sequence[Pair], checkpoints: Sequence[Pair]):
        self.checkpoints = checkpoints
        references = {"changes": Residual(width=64, reference="root"), "weights": Residual(width=64, reference="none")}
        self.tokenizer = references["weights"]
        self.scales = {
            measure: moments_of(InMemory.of(tokenizer.encode(weights, root=root)) for weights, root in train)
            for measure, tokenizer in references.items()
        }

    @torch.no_grad()
    def errors(self, model: nn.Module, inputs: TokenInputs) -> dict[str, float]:
        """Both errors of a model."""
        totals, count = dict.fromkeys(self.scales, 0.0), 0
        for (weights, root), (tokens, latents) in zip(self.checkpoints, inputs.latents(model, self.checkpoints), strict=True):
            decoded = self.tokenizer.encode(*inputs.decode(model, [tokens], [latents], roots=[root]))
            stored = self.tokenizer.encode(weights)
            squares = sums_in(stored.plan, decoded.values - stored.values)[:, 1]
            for measure, parts in self.scales.items():
                deviation = torch.tensor([parts[s.key][1] for s in stored.plan.parts], dtype=torch.float64)
                totals[measure] += torch.where(deviation > FAINT, squares / deviation**2, 0).sum().item()
            count += stored.plan.n_weights
        return {measure: total / count for measure, total in totals.items()}


class Mark(NamedTuple):
    """Where a training stood: seconds, and the errors by their names."""

    seconds: float
    errors: dict[str, float]


@dataclass(kw_only=True)
class Contestant:
    """One side of a race: a model in training, and the marks of its course.

    It has the weight decay, warm-up and clipping of `config`, that of `wsl.train`; `about` is reported of it; `seconds` of training
    begin with those of preparing the model. The rate is constant after the warm-up; with `cycle`, the seconds of the training, it
    goes up and down once, as the peers' (`torch.optim.lr_scheduler.OneCycleLR`).
    """

    name: str
    about: dict[str, Any]
    model: nn.Module
    objective: Loss
    inputs: TokenInputs
    batches: Iterator[Batch]
    holdout: Holdout
    config: Mapping[str, Any]
    rate: float
    cycle: float | None = None
    seconds: float = 0.0
    steps: int = 0
    weights: float = 0.0
    course: list[Mark] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, self.config["weight_decay"]), lr=self.rate)
        self.average = Average(self.model, ema=EMA)
        self.mark()

    @property
    def training(self) -> float:
        """Seconds of training alone, without the preparation."""
        return self.seconds - self.course[0].seconds

    def train(self, *, until: float) -> None:
        """Takes steps of `wsl.training.trainer` for so many seconds, and is marked.

        An objective that learns from other weights than those of the batch tells their number as `weights`.
        """
        while self.seconds < until:
            start = time.process_time()
            batch = next(self.batches)
            self.steps += 1
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * self._pace()
            self.optimizer.zero_grad()
            scalars = self.objective(self.model, batch)
            scalars["loss"].backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config["gradient_clip_val"])
            self.optimizer.step()
            self.average.update(self.steps)
            self.weights += scalars.get("weights", batch.entries).item()
            self.seconds += time.process_time() - start
        self.mark()

    def _pace(self) -> float:
        """The rate of a step over the largest."""
        if self.cycle is None:
            return min(1, self.steps / self.config["warmup"])
        done = self.seconds / self.cycle
        if done < RISE:
            return START + (1 - START) * (1 - math.cos(math.pi * done / RISE)) / 2
        return (1 + math.cos(math.pi * min(1, (done - RISE) / (1 - RISE)))) / 2

    def mark(self) -> None:
        """Takes the errors of the averaged weights."""
        with self.average.applied():
            self.course.append(Mark(self.seconds, self.holdout.errors(self.model, self.inputs)))

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
    """Trains each for so many seconds, in turns, with a progress bar on a terminal."""
    console = Console(stderr=True)
    for turn in track(range(1, turns + 1), "racing", console=console, transient=True, disable=not console.is_terminal):
        for contestant in contestants:
            contestant.train(until=seconds * turn / turns)


def best_of(build: Callable[..., Contestant], options: Sequence[dict[str, Any]], *, measure: str, seconds: float) -> dict[str, Any]:
    """Trains each for so many seconds, in turns, and returns the options of the best; preparation does not count."""
    if len(options) == 1:
        return options[0]
    contestants = [build(**each) for each in options]
    race(contestants, seconds=seconds + max(one.seconds for one in contestants), turns=2)
    errors = [contestant.course[-1].errors[measure] for contestant in contestants]
    for each, contestant, error in zip(options, contestants, errors, strict=True):
        print(f"{contestant.name} {each}: error of {measure} {error:.4f} after {seconds:g} s", flush=True)
    return options[int(np.argmin(np.where(np.isfinite(errors), errors, np.inf)))]


def best_settings(
    build: Callable[..., Contestant], choices: Mapping[str, Sequence[float]], *, measure: str, seconds: float
) -> dict[str, Any]:
    """Returns the settings of a rival that serve it best after so many seconds, chosen one after the other.

    A setting that is not chosen yet has the middle of its choices.
    """
    best = {name: values[len(values) // 2] for name, values in choices.items()}
    for name, values in choices.items():
        best = best_of(build, [{**best, name: value} for value in values], measure=measure, seconds=seconds)
    return best


def row_widths(widest: int) -> list[int]:
    """Returns the widths of rows that are tried."""
    return sorted({math.ceil(widest / parts) for parts in ROW_PARTS}, reverse=True)


def gain(ours: Contestant, rival: Contestant, measure: str) -> float:
    """How many times as long as ours the rival takes to the least error that both reach.

    An error that one had before its first step counts as reached at its first mark: the ratio is then a bound.
    """
    error = max(ours.best(measure), rival.best(measure))
    own, other = (max(side.reached(error, measure), side.course[1].seconds) for side in (ours, rival))
    return other / own
