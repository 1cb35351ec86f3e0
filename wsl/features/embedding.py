"""The embedding of a run: the latents of its encoder. And what an encoder gives that has learned nothing."""

import json
from collections.abc import Set
from pathlib import Path

import pandas as pd

from wsl.data.cache import EVERYTHING, cached
from wsl.features.features import Features, Kind
from wsl.run import Run
from wsl.run_files import MODEL_ENCODER
from zoo_gen import Zoo
from zoo_gen.files import sha256_of


class Embedding(Features):
    """The latents of a checkpoint, and nothing else."""

    kind: Kind = "embedding"

    def seen(self, run: Run) -> Set[str]:
        """Returns the run's train and val models."""
        return seen_by(run)

    def extract(self, run: Run, checkpoints: Zoo) -> pd.DataFrame:
        """Returns the embedding of each checkpoint (N F); see `Features.extract`."""
        weights = ["model.safetensors"] if run.model_encoder is None else [MODEL_ENCODER]
        state = [*before_training(run), *(sha256_of(Path(run.path, name)) for name in weights)]
        return cached(self, checkpoints, lambda: _table(run, checkpoints), state=state, modules=EVERYTHING)


class Untrained(Features):
    """The latents of the run's encoder before its training."""

    def seen(self, run: Run) -> Set[str]:
        """Returns the run's train and val models: tokens are standardised as in the run."""
        return seen_by(run)

    def extract(self, run: Run, checkpoints: Zoo) -> pd.DataFrame:
        """Returns the latents of each checkpoint (N F); see `Features.extract`."""

        def compute() -> pd.DataFrame:
            return _table(run.untrained(), checkpoints)

        return cached(self, checkpoints, compute, state=before_training(run), modules=EVERYTHING)


def seen_by(run: Run) -> frozenset[str]:
    """Returns the ids of the models of its zoo that a run is trained or validated on; a unseen_zoo has seen none."""
    if run.unseen_zoo:
        return frozenset()
    return frozenset(run.split.train.frame["model"]) | frozenset(run.split.val.frame["model"])


def before_training(run: Run) -> list[str]:
    """Returns what tells a run from another before its model is trained: its statistics, its cards, its seed."""
    cards = {key: run.config.get(key) for key in ("tokenizer", "model", "model_encoder", "window", "seed")}
    return [sha256_of(Path(run.path, "standardizer.json")), json.dumps(cards, sort_keys=True)]


def _table(run: Run, checkpoints: Zoo) -> pd.DataFrame:
    latents = run.embed(checkpoints)
    return pd.DataFrame(latents, columns=[f"latent/{i}" for i in range(latents.shape[1])])
