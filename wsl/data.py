"""Tokens of a zoo, and the windows of consecutive tokens that a hyper-representation is trained on.

Which window is drawn depends on the seed and its number alone, so that batches do not depend on the number of workers
or devices and a resumed training sees what the uninterrupted one would have seen.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from wsl.normalize import Standardizer
from wsl.tokenizers.tokens import Tokenizer, Tokens
from zoo_gen import Checkpoint, Zoo


class Batch(NamedTuple):
    """Windows of standardised tokens; padded tokens have mask False and negative positions."""

    values: Float[Tensor, "*B T D"]
    mask: Bool[Tensor, "*B T D"]
    positions: Int[Tensor, "*B T P"]

    @classmethod
    def of(cls, tokens: Tokens, standardizer: Standardizer) -> "Batch":
        """All standardised tokens of one checkpoint; the log-scale (the last coordinate) is never padding."""
        values = standardizer.standardize(tokens)
        return cls(values, functional.pad(tokens.mask, (0, 1), value=True), tokens.positions)

    def crop(self, start: int, length: int) -> "Batch":
        """The window of `length` tokens from `start` on, padded at its end where the checkpoint is shorter."""
        window = slice(start, start + length)
        missing = (0, 0, 0, max(0, start + length - self.values.shape[-2]))
        return Batch(
            functional.pad(self.values[..., window, :], missing),
            functional.pad(self.mask[..., window, :], missing),
            functional.pad(self.positions[..., window, :], missing, value=-1),
        )


def window_starts(tokens: int, length: int) -> list[int]:
    """Starts of windows that cover `tokens` tokens; the last one is moved back to be full rather than padded."""
    return [*range(0, tokens - length, length), max(0, tokens - length)]


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


class Windows(Dataset[Batch]):
    """Windows of `length` consecutive tokens; number n is drawn from the checkpoints as (seed, n) says.

    Windows are those that a checkpoint is encoded in, where every token is in one. With starts drawn at random, the first and last
    tokens (patch filters, final norm, head: what the accuracy of decoded weights depends on most) would hardly ever be seen.
    """

    def __init__(self, checkpoints: Sequence[Tokens], standardizer: Standardizer, *, length: int, seed: int):
        self.checkpoints, self.standardizer, self.length, self.seed = checkpoints, standardizer, length, seed

    def __getitem__(self, number: int) -> Batch:
        rng = np.random.default_rng((self.seed, number))
        tokens = self.checkpoints[int(rng.integers(len(self.checkpoints)))]
        start = rng.choice(window_starts(len(tokens.values), self.length))
        return Batch.of(tokens, self.standardizer).crop(int(start), self.length)

    def batches(self, steps: range, batch_size: int, *, rank: int, world_size: int, workers: int) -> DataLoader[Batch]:
        """Loader of the batches of some steps: step s holds windows s * batch_size and on, dealt out evenly to the
        devices.
        """
        share = batch_size // world_size
        firsts = [step * batch_size + rank * share for step in steps]
        return DataLoader(self, batch_sampler=[list(range(first, first + share)) for first in firsts], num_workers=workers)
