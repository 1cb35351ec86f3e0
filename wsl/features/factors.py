"""The generating factors of a model, one column per level, and products of every two: a baseline that knows the recipe alone."""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from wsl.features.features import Features
from wsl.run import Run
from zoo_gen import Zoo
from zoo_gen.index import ALL_FACTORS


class Factors(Features):
    """Indicators of the levels of all factors that vary, with pairwise interactions; of the root, too, where roots are shared."""

    reads: tuple[str, ...] = (*ALL_FACTORS, "root")

    def lack(self, zoo: Zoo) -> str:
        """Returns what a zoo lacks; see `Features.lack`."""
        varied = _varied(zoo.select(stage="finetune"), ALL_FACTORS)
        return "" if varied else f"no generating factor varies in {zoo.path}"

    def extract(self, run: Run, checkpoints: Zoo) -> pd.DataFrame:
        """Returns the indicators of each checkpoint (N F); see `Features.extract`."""
        columns = [*ALL_FACTORS, "root"] if run.config["split"] == "by_model" else [*ALL_FACTORS]
        chosen = checkpoints.frame[_varied(checkpoints, columns)]
        levels = pd.get_dummies(chosen.astype(str), prefix_sep="=").astype(float)
        products = {
            f"{one} x {other}": levels[one] * levels[other]
            for one, other in itertools.combinations(levels.columns, 2)
            if np.any(levels[one] * levels[other])
        }
        return pd.concat([levels, pd.DataFrame(products, index=levels.index)], axis=1)


def _varied(checkpoints: Zoo, columns: Sequence[str]) -> list[str]:
    return [name for name in columns if len(checkpoints.frame[name].unique()) > 1]
