"""What features are: a map from checkpoints to named numbers, which may have been fitted on the run's train models."""

from typing import Protocol, runtime_checkable

import pandas as pd

from wsl.run import Run
from zoo_gen import Zoo


@runtime_checkable
class Features(Protocol):
    """A map from checkpoints to vectors that reads weights alone: no factor, no result, and no image."""

    def extract(self, run: Run, checkpoints: Zoo) -> pd.DataFrame:
        """Computes the features of checkpoints.

        Args:
            run: the representation; its train models (`run.split.train`) are the only ones that features may be fitted
                on.
            checkpoints: any part of the run's zoo.

        Returns:
            One row per checkpoint in the order of `checkpoints`, one float column per feature. What a checkpoint lacks
            (a tensor of another head, say) is NaN, or no column at all where no checkpoint has it.
        """
        ...
