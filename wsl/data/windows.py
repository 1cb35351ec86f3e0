"""Windows of consecutive tokens that a hyper-representation is trained on, drawn from checkpoints of any number, size and shape.

An epoch draws every window of every checkpoint once, in an order that seed and epoch determine. Which window is number n depends
on the seed and on n alone: batches do not depend on workers, devices or caches, and a resumed training sees, from the middle of an
epoch on, what the uninterrupted one would have seen.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from wsl.data.permutation import Shuffle
from wsl.data.sources import Source
from wsl.data.standardizer import Standardizer
from wsl.tokenizers.tokens import Tokenizer, Tokens
from wsl.tokenizers.window import Window, window_starts
from zoo_gen import Checkpoint, InputError, Zoo

AHEAD = 4
"""Batches that each worker may be ahead of the training."""

KEPT = 32
"""Windows whose layout is remembered."""


class Batch(NamedTuple):
    """Windows of standardised tokens; padded tokens have mask False and negative positions.

    `source` is the number of the checkpoint among those that are trained on, -1 for one of no such number.
    """

    values: Float[Tensor, "*B T D"]
    mask: Bool[Tensor, "*B T D"]
    positions: Int[Tensor, "*B T P"]
    source: Int[Tensor, "*B"]

    @classmethod
    def of(cls, tokens: Tokens, standardizer: Standardizer) -> "Batch":
        """All standardised tokens of one checkpoint; the log-scale (the last coordinate) is never padding."""
        values = standardizer.standardize(tokens)
        return cls(values, functional.pad(tokens.mask, (0, 1), value=True), tokens.positions, torch.tensor(-1))

    @property
    def entries(self) -> Float[Tensor, ""]:
        """How many weights there are: what means over weights divide by."""
        return self.mask[..., :-1].sum()

    @property
    def tokens(self) -> Float[Tensor, ""]:
        """How many tokens there are: what means over log-scales divide by."""
        return self.mask[..., -1].sum()

    def split(self, parts: int) -> list["Batch"]:
        """Divides the windows into parts of equal size, in order."""
        return [Batch(*some) for some in zip(*(tensor.chunk(parts) for tensor in self), strict=True)]

    def crop(self, start: int, length: int) -> "Batch":
        """The window of `length` tokens from `start` on, padded at its end where the checkpoint is shorter."""
        window = slice(start, start + length)
        missing = (0, 0, 0, max(0, start + length - self.values.shape[-2]))
        return Batch(
            functional.pad(self.values[..., window, :], missing),
            functional.pad(self.mask[..., window, :], missing),
            functional.pad(self.positions[..., window, :], missing, value=-1),
            self.source,
        )


class MicroBatch(Batch):
    """Some windows of a batch that is divided among devices, or run in parts one after the other.

    Its counts are the mean count of a part, not its own: means over parts are then the means of the batch, though some parts have
    more padding than others.
    """

    counts: Float[Tensor, "2"]

    @classmethod
    def sharing(cls, batch: Batch, counts: Float[Tensor, "2"]) -> "MicroBatch":
        """Tells a part the mean counts (weights, tokens) of all parts."""
        part = cls(*batch)
        part.counts = counts
        return part

    @property
    def entries(self) -> Float[Tensor, ""]:
        """Mean number of weights."""
        return self.counts[0]

    @property
    def tokens(self) -> Float[Tensor, ""]:
        """Mean number of tokens."""
        return self.counts[1]


class TokenizedZoo:
    """A zoo seen through a tokenizer: yields the tokens of its checkpoints; the weights of roots are read once."""

    def __init__(self, zoo: Zoo, tokenizer: Tokenizer):
        self.zoo, self.tokenizer = zoo, tokenizer
        self._roots: dict[str, dict[str, Tensor]] = {}

    def __iter__(self) -> Iterator[Tokens]:
        return map(self.tokens, self.zoo)

    def tokens(self, checkpoint: Checkpoint) -> Tokens:
        """Reads and encodes one checkpoint, which may lie outside the selection."""
        return self.tokenizer.encode(checkpoint.state_dict(), root=self.root(checkpoint))

    def root(self, checkpoint: Checkpoint) -> dict[str, Tensor]:
        """Weights of the root that a checkpoint descends from."""
        if checkpoint.root not in self._roots:
            self._roots[checkpoint.root] = self.zoo.root(checkpoint).state_dict()
        return self._roots[checkpoint.root]


class Windows:
    """Windows of `length` consecutive tokens, numbered without end: epoch after epoch, each shuffled anew.

    Windows are those that a checkpoint is encoded in, where every token is in one. With starts drawn at random, the first and last
    tokens (patch filters, final norm, head: what the accuracy of decoded weights depends on most) would hardly ever be seen.

    Args:
        sources: checkpoints, of one token width.
        standardizer: of their tokens.
        length: tokens of a window, at most those of the longest checkpoint; a shorter one is one window, padded at its end.
        seed: of the order.
        cache: bytes of windows that are kept in memory once they have been read.
    """

    def __init__(self, sources: Sequence[Source], standardizer: Standardizer, *, length: int, seed: int, cache: int):
        if len(widths := sorted({source.plan.width for source in sources})) != 1:
            raise InputError(
                f"the checkpoints have tokens of {' and '.join(map(str, widths)) or 'no'} width; choose tokenizer=residual, whose "
                "tokens all have one, and a split with at least one model whose weights are finite"
            )
        self.sources, self.standardizer, self.seed = sources, standardizer, seed
        self._plans = list({id(source.plan): source.plan for source in sources}.values())
        self.length = length = min(length, max(plan.n_tokens for plan in self._plans))
        number = {id(plan): n for n, plan in enumerate(self._plans)}
        self._plan_of = np.array([number[id(source.plan)] for source in sources])
        self._starts = [window_starts(plan.n_tokens, length) for plan in self._plans]
        self._ends = np.array([len(starts) for starts in self._starts])[self._plan_of].cumsum()
        self._layout, self._shuffle = lru_cache(KEPT)(self._lay_out), lru_cache(2)(self._shuffled)
        self._kept: dict[int, Tensor] = {}
        self._room = cache

    @property
    def per_epoch(self) -> int:
        """Windows of one epoch: all there are."""
        return int(self._ends[-1])

    @property
    def padding(self) -> float:
        """The share of an epoch's tokens that is padding, for checkpoints shorter than a window."""
        missing = np.array([max(0, self.length - plan.n_tokens) for plan in self._plans])[self._plan_of]
        return float(missing.sum() / (self.per_epoch * self.length))

    def __getitem__(self, number: int) -> Batch:
        """One window, without a batch dimension."""
        epoch, place = divmod(number, self.per_epoch)
        index = self._shuffle(epoch)[place]
        source = int(np.searchsorted(self._ends, index, side="right"))
        plan = int(self._plan_of[source])
        window, mask = self._layout(plan, self._starts[plan][index - self._ends[source]])  # counted from the last
        values = self._kept.get(index)
        if values is None:
            scales = self.standardizer.log_scales(window.plan, self.sources[source].sums)
            values = self.standardizer.standardize_window(self.sources[source].draw(window), window, scales)
            if values.nbytes <= self._room:
                self._room -= values.nbytes
                self._kept[index] = values
        return Batch(values, mask, window.positions, torch.tensor(source)).crop(0, self.length)

    def batches(self, steps: range, batch_size: int, *, rank: int, world_size: int, workers: int) -> Generator[Batch, None, None]:
        """Batches of some steps: step s holds windows s * batch_size and on, dealt out evenly to the devices.

        Args:
            steps: whose batches are wanted, in order.
            batch_size: over all devices.
            rank, world_size: which of how many devices this is.
            workers: threads that read ahead; with 0, each batch is read when it is asked for.

        Raises `InputError` if the windows cannot be dealt out evenly.
        """
        if batch_size % world_size:
            raise InputError(f"batch_size must be a multiple of the {world_size} devices, not {batch_size}")
        share = batch_size // world_size

        def batch(step: int) -> Batch:
            first = step * batch_size + rank * share
            return Batch(*map(torch.stack, zip(*(self[n] for n in range(first, first + share)), strict=True)))

        return ahead(batch, steps, workers) if workers else (batch(step) for step in steps)

    def _lay_out(self, plan: int, start: int) -> tuple[Window, Tensor]:
        """A window of a plan, and its mask."""
        window = Window.of(self._plans[plan], start, min(start + self.length, self._plans[plan].n_tokens))
        return window, functional.pad(window.parts >= 0, (0, 1), value=True)

    def _shuffled(self, epoch: int) -> Shuffle:
        """The order of an epoch."""
        return Shuffle(self.per_epoch, (self.seed, epoch))


def ahead(make: Callable[[int], Batch], steps: Iterable[int], workers: int) -> Generator[Batch, None, None]:
    """Makes the batches of steps in threads, some ahead of the one that is asked for, and yields them in order.

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
