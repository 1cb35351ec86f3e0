"""Inputs of a hyper-representation: the tokens of checkpoints, standardised, and how they pass through a model window by window."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby, islice, pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from wsl.data.pairs import Pairs, pairs_of, root_weights, rootless, roots_of, weights_with_roots
from wsl.data.sources import scan
from wsl.data.stacks import shape_key
from wsl.data.standardizer import Standardizer
from wsl.layout.slots import ROLES
from wsl.tokenizers.tokens import Tokenizer, Tokens
from wsl.tokenizers.window import padded, window_starts
from zoo_gen import InputError, Zoo
from zoo_gen.config import instantiate
from zoo_gen.reader import read_json
from zoo_gen.threads import batched, in_threads
from zoo_gen.wording import counted

CHECKPOINTS_AT_ONCE = 32
"""Checkpoints of one plan that are encoded together, at most."""

WEIGHTS_AT_ONCE = 2**24
"""Weights of checkpoints that are encoded, or decoded and evaluated, together, at most; a larger checkpoint is alone."""


@dataclass(frozen=True)
class TokenInputs:
    """Standardised tokens of checkpoints.

    Attributes:
        reads, fitted, file: what they are, whether they are fitted to train models, and their file in the folder of a run.
        tokenizer: of all checkpoints.
        standardizer: of their tokens, fitted on train models.
        window: tokens that the model sees at once.
    """

    reads: ClassVar[Literal["tokens"]] = "tokens"
    fitted: ClassVar[bool] = True
    file: ClassVar[str] = "standardizer.json"

    tokenizer: Tokenizer
    standardizer: Standardizer
    window: int

    @classmethod
    def read(cls, folder: Path, config: Mapping[str, Any], *, advice: str) -> Self:
        """Reads what `save` wrote into a run's folder. Raises `InputError` for a file that is missing or damaged."""
        read_json(folder / cls.file, advice=advice)
        standardizer = Standardizer.load(folder / cls.file)
        return cls(instantiate(config["tokenizer"], group="tokenizer"), standardizer, config["window"])

    def save(self, folder: Path) -> None:
        """Writes the statistics into a run's folder."""
        self.standardizer.save(folder / self.file)

    @property
    def model_values(self) -> dict[str, Any]:
        """The keyword values of a model that follow from its inputs: none that the configuration does not have."""
        return {}

    @property
    def tokens(self) -> Self:
        """These inputs: they are of tokens."""
        return self

    @property
    def needs_root(self) -> bool:
        """Whether tokens are differences to a root."""
        return self.tokenizer.reference == "root"

    def prepare(self, zoo: Zoo) -> None:
        """Tells the tokenizer the roots of a zoo. Raises `InputError` for tokens of differences where a root is not known."""
        if self.needs_root and (count := rootless(zoo)):
            raise InputError(
                f"tokens of this run are differences to a root, and the roots of {counted(count, 'model')} of {zoo.path} are not "
                "known; name them where the zoo is adopted, or train a run on tokens of the weights themselves: "
                "tokenizer.reference=none"
            )
        self.tokenizer.prepare(roots_of(zoo))

    def table(self, model: Any, checkpoints: Zoo, *, within: Zoo) -> pd.DataFrame:
        """Returns the inputs of checkpoints as features (N F): standardised tokens, pooled as latents are."""

        def standardized(pairs: Pairs) -> Iterator[tuple[Tokens, Tensor]]:
            encoded = (self.tokenizer.encode(weights, root=root) for weights, root in pairs)
            return ((tokens, self.standardizer.standardize(tokens)) for tokens in encoded)

        return self._pooled(model, standardized, weights_with_roots(checkpoints), within)

    def embed(self, model: Any, checkpoints: Zoo, *, within: Zoo) -> pd.DataFrame:
        """Returns the latents of checkpoints, pooled over each (block, role) of `within` (N F); NaN for a model that diverged."""
        return self.embed_weights(model, weights_with_roots(checkpoints), within=within)

    def embed_weights(self, model: Any, pairs: Pairs, *, within: Zoo) -> pd.DataFrame:
        """Returns the pooled latents (N F) of weights, each with those of its root; see `embed`."""
        return self._pooled(model, partial(self.latents, model), pairs, within)

    def latents(self, model: Any, pairs: Pairs) -> Iterator[tuple[Tokens, Float[Tensor, "T Z"]]]:
        """Yields tokens and latents of weights, in order; latents of a model that diverged are not finite."""
        encoded = (self.tokenizer.encode(weights, root=root) for weights, root in pairs)
        for _, alike in groupby(encoded, key=lambda tokens: tokens.plan):
            for some in _pieces(alike):
                values = torch.stack([self.standardizer.standardize(tokens) for tokens in some])
                mask = torch.stack([functional.pad(tokens.mask, (0, 1), value=True) for tokens in some])
                positions = torch.stack([tokens.positions for tokens in some])
                yield from zip(some, self._by_window(model, model.encode, values, mask, positions), strict=True)

    def decode(
        self, model: Any, tokens: Tokens, latents: Float[Tensor, "T Z"], *, root: Mapping[str, Tensor] | None
    ) -> dict[str, Tensor]:
        """Returns weights from latents, laid out as in `tokens` (of any model of the same shape; its values do not matter)."""
        values = self._by_window(model, model.decode, latents[None], tokens.positions[None])[0]
        return self.tokenizer.decode(tokens.with_values(self.standardizer.restore(values, tokens.plan)), root=root)

    def rescaled(self, model: Any, train: Zoo) -> tuple[Any, "TokenInputs"]:
        """Returns the model, and inputs that are standardised by other checkpoints."""
        self.prepare(train)
        sources = scan(pairs_of(train), self.tokenizer)
        standardizer = Standardizer.fit((source.plan, source.sums) for source in sources)
        return model, TokenInputs(self.tokenizer, standardizer, self.window)

    def _pooled(
        self, model: Any, latents: Callable[[Pairs], Iterable[tuple[Tokens, Tensor]]], pairs: Pairs, within: Zoo
    ) -> pd.DataFrame:
        groups = _groups(self.tokenizer, within)

        def pooled(some: Pairs) -> Tensor:
            return torch.stack([model.embed(z[None], tokens.positions, groups)[0] for tokens, z in latents(some)])

        rows = torch.cat(list(in_threads(pooled, batched(pairs, CHECKPOINTS_AT_ONCE))))
        each = rows.shape[1] // len(groups)
        last = max(block for block, _ in groups)  # it has another number in deeper models, and the same name
        names = [f"{'tail' if block == last else block}.{ROLES[role]}/{i}" for block, role in groups for i in range(each)]
        return pd.DataFrame(rows.numpy(), columns=names)

    @torch.no_grad()
    def _by_window(self, model: nn.Module, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """Applies a function to (B T ...) window by window, on the model's device; where windows overlap, the later one counts."""
        device, total = next(model.parameters()).device, tensors[0].shape[1]
        starts = window_starts(total, self.window)
        pieces = []
        for start, following in pairwise([*starts, total]):
            window = (padded(tensor[:, start : start + self.window], self.window).to(device) for tensor in tensors)
            pieces.append(function(*window)[..., : following - start, :].float().cpu())
        return torch.cat(pieces, dim=-2)


@lru_cache(16)
def _groups(tokenizer: Tokenizer, zoo: Zoo) -> tuple[tuple[int, int], ...]:
    """Returns the (block, role) that tokens of a zoo have, whatever the shape of the model."""
    found: set[tuple[int, int]] = set()
    shapes = {shape_key(checkpoint): checkpoint for checkpoint in zoo.select(stage="finetune", final=True)}
    for checkpoint in shapes.values():
        plan = tokenizer.plan(checkpoint.state_dict(), root=root_weights(zoo, checkpoint))
        found |= {(group.block, ROLES.index(group.role)) for group in plan.groups}
    return tuple(sorted(found))


def _pieces(alike: Iterator[Tokens]) -> Iterator[list[Tokens]]:
    """Yields tokens of one plan, as many at once as memory is meant for."""
    for first in alike:
        fitting = max(1, min(CHECKPOINTS_AT_ONCE, WEIGHTS_AT_ONCE // first.plan.n_weights))
        yield [first, *islice(alike, fitting - 1)]
