"""The protocol of features: a map from checkpoints to named numbers, which may have been fitted on the run's train models."""

from collections.abc import Set
from typing import Literal, Protocol, runtime_checkable

import pandas as pd

from wsl.data.pairs import roots_of
from wsl.run import Run
from zoo_gen import Zoo

Kind = Literal["embedding", "baseline", "reference", "joined"]
"""An `embedding` reads weights alone: no factor, no result, no image. It has to beat each `baseline`. A `reference` runs the
checkpoint and is no competitor. `joined` are hand-made features beside the embedding's."""


@runtime_checkable
class Features(Protocol):
    """A map from checkpoints to vectors."""

    kind: Kind = "baseline"

    reads: tuple[str, ...] = ()
    """The columns of `zoo.frame` that are read; targets among them are marked as given."""

    of_model: bool = False
    """Whether the features are made by the model of a run, or from the inputs of that model: then each model has its own."""

    def row_name(self, card: str, model: str) -> str:
        """Returns how rows of tables are called, given the names of the features' card and of the model's."""
        return card

    def lack(self, zoo: Zoo) -> str:
        """Returns what a zoo lacks that the features are made of, for a message; nothing if it has all."""
        return ""

    def seen(self, run: Run) -> Set[str]:
        """Returns the ids of the models that the features were fitted on: none, or at most the run's train and val models."""
        return frozenset()

    def extract(self, run: Run, checkpoints: Zoo) -> pd.DataFrame:
        """Computes the features of checkpoints.

        Args:
            run: the representation; its train models (`run.split.train`) are the only ones that features may be fitted
                on.
            checkpoints: any selection of the run's zoo.

        Returns:
            One row per checkpoint in the order of `checkpoints`, one float column per feature. What a checkpoint lacks
            (a tensor of another head, say) is NaN, or no column at all where no checkpoint has it.
        """
        ...


def lack_of_roots(zoo: Zoo) -> str:
    """Returns what differences to roots lack in a zoo: any root that is known."""
    return "" if roots_of(zoo) else f"no model of {zoo.path} has a known root"


def train_models(run: Run) -> frozenset[str]:
    """Returns the ids of the models that a run is fitted on."""
    return frozenset(run.split.train.frame["model"])
