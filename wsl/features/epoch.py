"""The epoch alone: a baseline that knows nothing but training time."""

import numpy as np
import pandas as pd

from wsl.features.features import Features
from wsl.run import Run
from zoo_gen import Zoo


class Epoch(Features):
    """The epoch, its root and its logarithm."""

    reads: tuple[str, ...] = ("epoch",)

    def extract(self, run: Run, checkpoints: Zoo) -> pd.DataFrame:
        """Returns three columns (N 3); see `Features.extract`."""
        epoch = checkpoints.frame["epoch"].to_numpy(dtype=float)
        return pd.DataFrame({"epoch": epoch, "root": np.sqrt(epoch), "log": np.log(epoch)})
