"""What the encoder of a run is given, pooled as its latents are: what it adds is what the embedding has beyond this."""

import hashlib
import json
from collections.abc import Iterator, Set

import pandas as pd
import torch

from wsl.data.cache import EVERYTHING, cached
from wsl.data.invariants import invariants_of
from wsl.data.windows import TokenizedZoo
from wsl.features.embedding import before_training, seen_by
from wsl.features.features import Features
from wsl.run import Run
from wsl.tokenizers.tokens import Tokens
from zoo_gen import Zoo

_NUMBERS_KEPT = 400_000_000  # of tokens in memory: 1.6 GB


class EncoderInputs(Features):
    """The invariants that a model encoder reads; for a run without one, standardised tokens, pooled as if they were latents."""

    def seen(self, run: Run) -> Set[str]:
        """Returns the run's train and val models, where tokens are standardised as in the run; invariants have seen none."""
        if run.model_encoder is not None:
            return frozenset()
        return seen_by(run)

    def extract(self, run: Run, checkpoints: Zoo) -> pd.DataFrame:
        """Returns the pooled tokens of each checkpoint (N F); see `Features.extract`."""
        if run.model_encoder is not None:
            return invariants_of(checkpoints)
        return cached(self, checkpoints, lambda: self._compute(run, checkpoints), state=before_training(run), modules=EVERYTHING)

    @torch.no_grad()
    def _compute(self, run: Run, checkpoints: Zoo) -> pd.DataFrame:
        rows = []
        for tokens in _tokens(run, checkpoints):
            values = run.standardizer.standardize(tokens)
            rows.append(run.model.embed(values[None], tokens.positions, run.groups)[0])
        table = torch.stack(rows).numpy()
        return pd.DataFrame(table, columns=[f"token/{i}" for i in range(table.shape[1])])


_KEPT: dict[str, list[Tokens]] = {}


def _tokens(run: Run, checkpoints: Zoo) -> Iterator[Tokens]:
    """Yields the tokens of checkpoints, those of the last zoo from memory: every fold of a benchmark asks for the same."""
    about = [json.dumps(run.config["tokenizer"], sort_keys=True), checkpoints.content_hash, *checkpoints.frame["weights_sha256"]]
    key = hashlib.sha256("\n".join(about).encode()).hexdigest()
    if key not in _KEPT:
        _KEPT.clear()
        kept, numbers = [], 0
        for tokens in TokenizedZoo(checkpoints, run.tokenizer):
            numbers += tokens.values.numel()
            if numbers <= _NUMBERS_KEPT:
                kept.append(Tokens(tokens.values, tokens.plan, ()))
            yield tokens
        if numbers <= _NUMBERS_KEPT:
            _KEPT[key] = kept
    else:
        yield from _KEPT[key]
