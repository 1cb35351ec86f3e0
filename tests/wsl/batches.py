"""Whole checkpoints as batches, windows cut out of them, and statistics of tokens in memory."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.race import InMemory
from wsl.data.standardizer import Standardizer
from wsl.data.windows import Batch, padded
from wsl.tokenizers.tokens import Tokens


def fitted(family: Iterable[Tokens]) -> Standardizer:
    """The statistics of checkpoints."""
    return Standardizer.fit((source.plan, source.sums) for source in map(InMemory.of, family))


def whole(tokens: Tokens, standardizer: Standardizer, *, side: Tensor | None = None) -> Batch:
    """All standardised tokens of one checkpoint; the log-scale (the last coordinate) is never padding."""
    values = standardizer.standardize(tokens)
    mask = functional.pad(tokens.mask, (0, 1), value=True)
    known = values.new_zeros(len(values), 0) if side is None else side
    return Batch(values, mask, tokens.positions, known, torch.tensor(len(values)), torch.tensor(-1))


def stacked(family: Iterable[Tokens], standardizer: Standardizer) -> Batch:
    """All standardised tokens of checkpoints of one plan."""
    return Batch(*map(torch.stack, zip(*(whole(tokens, standardizer) for tokens in family), strict=True)))


def cropped(batch: Batch, start: int, length: int) -> Batch:
    """The window of `length` tokens from `start` on, padded at its end where the checkpoint is shorter."""
    values, mask, positions, side = (padded(tensor[..., start : start + length, :], length) for tensor in batch[:4])
    return Batch(values, mask, positions, side, batch.total, batch.source)
