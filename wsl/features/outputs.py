"""What a model answers to noise: it runs the model, so it is a line of reference and no reading of weights."""

import numpy as np
import pandas as pd
import torch

from wsl.features.cache import cached
from wsl.features.features import Features, Kind
from wsl.run import Run
from zoo_gen import Zoo
from zoo_gen.evaluate import logits

_MODELS_AT_ONCE = 64


class NoiseOutputs(Features):
    """Logits, and probabilities, of fixed images of Gaussian noise.

    Args:
        images: how many.
        seed: of the noise.
    """

    kind: Kind = "reference"

    def __init__(self, *, images: int, seed: int) -> None:
        self.images, self.seed = images, seed

    def extract(self, run: Run, checkpoints: Zoo) -> pd.DataFrame:
        """Returns the outputs of each checkpoint (N F); see `Features.extract`."""
        return cached(self, checkpoints, lambda: self._compute(checkpoints))

    def _compute(self, checkpoints: Zoo) -> pd.DataFrame:
        shape = checkpoints.images("finetune").test.pixels.shape[1:]
        noise = torch.randn(self.images, *shape, generator=torch.Generator().manual_seed(self.seed))
        outputs = run_models(checkpoints, noise)
        both = np.concatenate([outputs, torch.from_numpy(outputs).softmax(-1).numpy()], axis=2)
        return pd.DataFrame(both.reshape(len(both), -1)).rename(columns="output/{}".format)


def run_models(checkpoints: Zoo, pixels: torch.Tensor) -> np.ndarray:
    """Returns the logits (N images classes) of checkpoints on the same images, NaN where a model has fewer classes."""
    alike: dict[str, list[int]] = {}
    found: dict[int, np.ndarray] = {}
    every = list(checkpoints)

    def flush(rows: list[int]) -> None:
        out = logits(every[rows[0]].architecture, [every[row].state_dict() for row in rows], pixels)
        found.update(zip(rows, out.numpy(), strict=True))
        rows.clear()

    for row, checkpoint in enumerate(every):
        rows = alike.setdefault(str(checkpoint.architecture), [])
        rows.append(row)
        if len(rows) == _MODELS_AT_ONCE:
            flush(rows)
    for rows in alike.values():
        if rows:
            flush(rows)
    table = np.full((len(every), len(pixels), max(out.shape[1] for out in found.values())), np.nan, dtype=np.float32)
    for row, out in found.items():
        table[row, :, : out.shape[1]] = out
    return table
