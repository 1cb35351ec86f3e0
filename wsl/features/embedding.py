"""The embedding of checkpoints by the model of a run, by the same model before its training, and the inputs of that model."""

import json
from collections.abc import Set

import pandas as pd

from wsl.data.cache import EVERYTHING, cached
from wsl.features.features import Features, Kind
from wsl.run import Run
from zoo_gen import Zoo
from zoo_gen.files import sha256_of


class Embedding(Features):
    """The embedding of a checkpoint by the model of a run, and nothing else. Rows are named after the model."""

    kind: Kind = "embedding"
    of_model = True

    def row_name(self, card: str, model: str) -> str:
        """Returns the name of the model; see `Features.row_name`."""
        return model

    def seen(self, run: Run) -> Set[str]:
        """Returns the run's train and val models."""
        return run.seen

    def extract(self, run: Run, checkpoints: Zoo) -> pd.DataFrame:
        """Returns the embedding of each checkpoint (N F); see `Features.extract`."""
        return cached(self, checkpoints, lambda: run.embeddings(checkpoints), state=state_of(run), modules=EVERYTHING)


class Rescaled(Embedding):
    """The embedding by a model whose inputs are standardised by the train models of the run's present zoo, without labels."""

    def row_name(self, card: str, model: str) -> str:
        """Returns the name of the model with a word beside it; see `Features.row_name`."""
        return f"{model} rescaled"

    def seen(self, run: Run) -> Set[str]:
        """Returns the train models, whose scales are taken."""
        return run.seen | frozenset(run.split.train.frame["model"])

    def extract(self, run: Run, checkpoints: Zoo) -> pd.DataFrame:
        """Returns the embedding of each checkpoint (N F); see `Features.extract`."""
        return run.rescaled().embeddings(checkpoints)


class Untrained(Features):
    """The embedding by the model of a run before its training."""

    of_model = True

    def seen(self, run: Run) -> Set[str]:
        """Returns the run's train and val models: inputs are standardised as in the run."""
        return run.seen

    def extract(self, run: Run, checkpoints: Zoo) -> pd.DataFrame:
        """Returns the embedding of each checkpoint (N F); see `Features.extract`."""
        return cached(self, checkpoints, lambda: run.untrained().embeddings(checkpoints), state=state_of(run), modules=EVERYTHING)


class EncoderInputs(Features):
    """The inputs of the model of a run: invariants, or standardised tokens, pooled as if they were latents."""

    of_model = True

    def seen(self, run: Run) -> Set[str]:
        """Returns the run's train and val models where inputs are fitted to them: tokens are, invariants are not."""
        return run.seen if run.inputs.fitted else frozenset()

    def extract(self, run: Run, checkpoints: Zoo) -> pd.DataFrame:
        """Returns the inputs of each checkpoint (N F); see `Features.extract`."""
        if not run.inputs.fitted:  # the same in all runs, and in the cache already
            return run.encoder_inputs(checkpoints)
        return cached(self, checkpoints, lambda: run.encoder_inputs(checkpoints), state=state_of(run), modules=EVERYTHING)


def state_of(run: Run) -> list[str]:
    """Returns hashes that identify a run: of its weights and the statistics of its inputs; and its cards and seed."""
    cards = {key: run.config.get(key) for key in ("tokenizer", "model", "window", "seed")}
    files = [sha256_of(run.path / name) for name in ("model.safetensors", run.inputs.file)]
    return [*files, json.dumps(cards, sort_keys=True)]
