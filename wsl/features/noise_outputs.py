"""Outputs of a checkpoint on images of noise: a reference, as it runs the model and does not read its weights."""

import numpy as np
import pandas as pd
import torch

from wsl.data.cache import cached
from wsl.data.logits import lack_to_run, run_models
from wsl.features.features import Features, Kind
from wsl.run import Run
from zoo_gen import Zoo


class NoiseOutputs(Features):
    """Logits, and probabilities, of fixed images of Gaussian noise.

    Args:
        images: how many.
        seed: of the noise.
    """

    kind: Kind = "reference"

    def __init__(self, *, images: int, seed: int) -> None:
        self.images, self.seed = images, seed

    def lack(self, zoo: Zoo) -> str:
        """Returns what a zoo lacks; see `Features.lack`."""
        return lack_to_run(zoo)

    def extract(self, run: Run, checkpoints: Zoo) -> pd.DataFrame:
        """Returns the outputs of each checkpoint (N F); see `Features.extract`."""
        return cached(self, checkpoints, lambda: self._compute(checkpoints))

    def _compute(self, checkpoints: Zoo) -> pd.DataFrame:
        shape = checkpoints.images("finetune").test.pixels.shape[1:]
        noise = torch.randn(self.images, *shape, generator=torch.Generator().manual_seed(self.seed))
        outputs = run_models(checkpoints, noise)
        both = np.concatenate([outputs, torch.from_numpy(outputs).softmax(-1).numpy()], axis=2)
        return pd.DataFrame(both.reshape(len(both), -1)).rename(columns="output/{}".format)
