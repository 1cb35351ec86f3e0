"""The embedding of a run: the latents of its encoder, pooled."""

import pandas as pd

from wsl.run import Run
from zoo_gen import Zoo


class Embedding:
    """The pooled latents of a checkpoint, and nothing else."""

    def extract(self, run: Run, checkpoints: Zoo) -> pd.DataFrame:
        """Returns the embedding of each checkpoint (N F); see `Features.extract`."""
        latents = run.embed(checkpoints)
        return pd.DataFrame(latents, columns=[f"latent/{i}" for i in range(latents.shape[1])])
