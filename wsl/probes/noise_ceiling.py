"""Results of checkpoints image by image: a bootstrap of the test images re-evaluates them."""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch.nn import functional

from wsl.data.cache import cached
from wsl.data.logits import lack_to_run, run_models
from wsl.probes.probe import Measured
from zoo_gen import Zoo


def measure(checkpoints: Zoo, rows: Int[np.ndarray, "M"]) -> Measured:
    """Runs some rows of `checkpoints` again on the test images and returns the results; NaN for all others.

    All are NaN where the models of the zoo cannot be run on images.
    """
    if lack_to_run(checkpoints):
        return Measured(*np.full((2, len(checkpoints), 1), np.nan))
    split = checkpoints.images("finetune").test
    some = checkpoints.select(path=checkpoints.frame["path"].iloc[rows].tolist())

    def run() -> pd.DataFrame:
        outputs = torch.from_numpy(run_models(some, split.pixels)).nan_to_num(nan=-torch.inf)
        loss = functional.cross_entropy(outputs.mT, split.labels.expand(len(outputs), -1), reduction="none")
        right = (outputs.argmax(-1) == split.labels).float()
        return pd.DataFrame(torch.cat([loss, right], dim=1).numpy()).rename(columns="image/{}".format)

    table = cached(measure, some, run).to_numpy()
    loss, accuracy = (np.full((len(checkpoints), len(split.labels)), np.nan) for _ in range(2))
    loss[rows], accuracy[rows] = np.hsplit(table, 2)
    return Measured(loss, accuracy)


def sample_rows(frame: pd.DataFrame, limit: int) -> Int[np.ndarray, "M"]:
    """Returns the rows of about `limit` final checkpoints and as many of all epochs, evenly thinned."""
    final = np.flatnonzero(frame["final"].to_numpy(dtype=bool))
    return np.union1d(final[:: max(1, -(-len(final) // limit))], np.arange(len(frame))[:: max(1, -(-len(frame) // limit))])
