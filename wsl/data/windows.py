"""Windows of consecutive tokens that a hyper-representation is trained on, drawn from checkpoints of any number, size and shape.

An epoch draws every window of every checkpoint once, in an order that seed and epoch determine. Window n follows from the seed and
n alone. Batches do not depend on workers, devices or caches, and a resumed training sees the windows of the uninterrupted one.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from wsl.data.permutation import Shuffle
from wsl.data.side_information import SourceSides
from wsl.data.sources import Source
from wsl.data.standardizer import Standardizer
from wsl.tokenizers.window import Window, padded, window_starts
from zoo_gen import InputError

AHEAD = 4
"""Batches that each worker may be ahead of the training."""

KEPT = 32
"""Windows whose layout is remembered."""


class Batch(NamedTuple):
    """Windows of standardised tokens; padded tokens have mask False and negative positions.

    `side` is what is known beside them (`wsl.data.side_information`; no numbers where nothing is), `total` the number of
    tokens of the whole checkpoint, and `source` its number among those that are trained on.
    """

    values: Float[Tensor, "*B T D+1"]
    mask: Bool[Tensor, "*B T D+1"]
    positions: Int[Tensor, "*B T P"]
    side: Float[Tensor, "*B T CD"]
    total: Int[Tensor, "*B"]
    source: Int[Tensor, "*B"]

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What a model is given: all but the number of the checkpoint."""
        return self.values, self.mask, self.positions, self.side, self.total

    @property
    def entries(self) -> Float[Tensor, ""]:
        """Number of weights, which means over weights divide by."""
        return self.mask[..., :-1].sum()

    @property
    def tokens(self) -> Float[Tensor, ""]:
        """Number of tokens, which means over log-scales divide by."""
        return self.mask[..., -1].sum()

    def split(self, count: int) -> list["Batch"]:
        """Divides the windows into micro-batches of equal size, in order."""
        return [Batch(*some) for some in zip(*(tensor.chunk(count) for tensor in self), strict=True)]


class MicroBatch(Batch):
    """Some windows of a batch that is divided among devices, or run in several micro-batches one after the other.

    Its counts are the mean counts of all micro-batches, not its own. Means over micro-batches are then the means of the batch,
    though some have more padding than others.
    """

    counts: Float[Tensor, "2"]

    @classmethod
    def of(cls, batch: Batch, counts: Float[Tensor, "2"]) -> "MicroBatch":
        """Returns some windows with the mean counts (weights, tokens) of all micro-batches."""
        found = cls(*batch)
        found.counts = counts
        return found

    @property
    def entries(self) -> Float[Tensor, ""]:
        """Mean number of weights."""
        return self.counts[0]

    @property
    def tokens(self) -> Float[Tensor, ""]:
        """Mean number of tokens."""
        return self.counts[1]


class Windows:
    """Windows of `length` consecutive tokens, numbered without end: epoch after epoch, each shuffled anew.

    Checkpoints are encoded in the same windows, which cover every token. With starts drawn at random, the first and last tokens
    (patch filters, final norm, head) would hardly ever be seen, and the accuracy of decoded weights depends on these most.

    Args:
        sources: checkpoints, of one token width.
        standardizer: of their tokens.
        length: tokens of a window, at most those of the longest checkpoint; a shorter one is one window, padded at its end.
        seed: of the order.
        cache: bytes of windows that are kept in memory once they have been read.
        sides: side information of the sources, by number; None for none.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        standardizer: Standardizer,
        *,
        length: int,
        seed: int,
        cache: int,
        sides: SourceSides | None = None,
    ):
        if len(widths := sorted({source.plan.width for source in sources})) != 1:
            raise InputError(
                f"the checkpoints have tokens of {' and '.join(map(str, widths)) or 'no'} width; choose tokenizer=residual, whose "
                "tokens all have one, and a split with at least one model whose weights are finite"
            )
        self.sources, self.standardizer, self.sides = sources, standardizer, sides
        self._plans = list({id(source.plan): source.plan for source in sources}.values())
        self.length = length = min(length, max(plan.n_tokens for plan in self._plans))
        number = {id(plan): n for n, plan in enumerate(self._plans)}
        self._plan_of = np.array([number[id(source.plan)] for source in sources])
        self._starts = [window_starts(plan.n_tokens, length) for plan in self._plans]
        self._ends = np.array([len(starts) for starts in self._starts])[self._plan_of].cumsum()
        self._layout = lru_cache(KEPT)(self._lay_out)
        self._shuffle = lru_cache(2)(lambda epoch: Shuffle(self.per_epoch, (seed, epoch)))
        self._kept: dict[int, Tensor] = {}
        self._room = cache

    @property
    def per_epoch(self) -> int:
        """Number of windows of one epoch: all of every checkpoint."""
        return int(self._ends[-1])

    def __getitem__(self, number: int) -> Batch:
        """One window, without a batch dimension."""
        epoch, place = divmod(number, self.per_epoch)
        index = self._shuffle(epoch)[place]
        source = int(np.searchsorted(self._ends, index, side="right"))
        plan = int(self._plan_of[source])
        window, mask, positions = self._layout(plan, self._starts[plan][index - self._ends[source]])  # counted from the last
        values = self._kept.get(index)
        if values is None:
            scales = self.standardizer.log_scales(window.plan, self.sources[source].sums)
            values = self.standardizer.standardize_window(self.sources[source].draw(window), window, scales)
            if values.nbytes <= self._room:
                self._room -= values.nbytes
                self._kept[index] = values
        side = values.new_zeros(len(values), 0) if self.sides is None else self.sides[source][window.start : window.stop]
        total = torch.tensor(window.plan.n_tokens)
        return Batch(padded(values, self.length), mask, positions, padded(side, self.length), total, torch.tensor(source))

    def batches(self, steps: range, batch_size: int, *, rank: int, world_size: int, workers: int) -> Generator[Batch, None, None]:
        """Yields the batches of some steps: step s holds windows s * batch_size and on, dealt out evenly to the devices.

        Args:
            steps: the steps, in order.
            batch_size: over all devices.
            rank, world_size: number of this device, and of all devices.
            workers: threads that read ahead; with 0, each batch is read when the training needs it.

        Raises `InputError` if the windows cannot be dealt out evenly.
        """
        if batch_size % world_size:
            raise InputError(f"batch_size must be a multiple of the {world_size} devices, not {batch_size}")
        own = batch_size // world_size

        def batch(step: int) -> Batch:
            first = step * batch_size + rank * own
            return Batch(*map(torch.stack, zip(*(self[n] for n in range(first, first + own)), strict=True)))

        return ahead(batch, steps, workers) if workers else (batch(step) for step in steps)

    def _lay_out(self, plan: int, start: int) -> tuple[Window, Tensor, Tensor]:
        """Returns a window of a plan, and the padded mask and positions of its tokens."""
        window = Window.of(self._plans[plan], start, min(start + self.length, self._plans[plan].n_tokens))
        mask = functional.pad(window.parts >= 0, (0, 1), value=True)
        return window, padded(mask, self.length), padded(window.positions, self.length)


def ahead(make: Callable[[int], Batch], steps: Iterable[int], workers: int) -> Generator[Batch, None, None]:
    """Makes the batches of steps in threads, some ahead of the training, and yields them in order.

    Threads share the cache with each other, and die with the process; most of their work is done outside Python's lock.
    """
    pool = ThreadPoolExecutor(workers)
    futures: deque[Future[Batch]] = deque()
    try:
        for step in steps:
            futures.append(pool.submit(make, step))
            if len(futures) > AHEAD * workers:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
