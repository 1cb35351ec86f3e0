"""Update norms: how far each tensor moves from one kept epoch of a model to the next."""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
from torch import Tensor

from wsl.data.cache import cached
from wsl.data.pairs import pairs_of, with_roots
from wsl.data.stacks import changes, in_float32
from zoo_gen import Checkpoint, Zoo

_FLOOR = 1e-8  # what float32 leaves of a zero


def update_norms_of(checkpoints: Zoo) -> pd.DataFrame:
    """Measures the update of every tensor that leads to a checkpoint, and the one to the next checkpoint of the same model.

    Returns:
        One row per checkpoint (N C), in the order of the zoo. Columns are `to <tensor>` and `from <tensor>`: logarithms of the norm
        of the difference to the kept checkpoint before (at first the root, which has no head and may not be known) and to the one
        after. NaN where there is none, or where weights are not finite.
    """
    return cached(update_norms_of, checkpoints, lambda: _update_norms(checkpoints))


def _update_norms(checkpoints: Zoo) -> pd.DataFrame:
    pairs = sorted(pairs_of(checkpoints), key=lambda pair: (pair[0].model, pair[0].epoch))
    to = pd.DataFrame(_norms(pairs), index=[str(checkpoint.path) for checkpoint, _ in pairs])
    onward = to.groupby([checkpoint.model for checkpoint, _ in pairs]).shift(-1)
    found = pd.concat([to.add_prefix("to "), onward.add_prefix("from ")], axis=1)
    found = found.loc[[str(checkpoint.path) for checkpoint in checkpoints]].reset_index(drop=True)
    return found.where(np.isfinite(found))


def _norms(pairs: Iterable[tuple[Checkpoint, Checkpoint | None]]) -> Iterator[dict[str, float]]:
    """Yields the norms of the last update of checkpoints that come model by model and epoch by epoch."""
    model, before = None, dict[str, Tensor]()
    for checkpoint, root in with_roots(pairs):
        weights = in_float32(checkpoint.state_dict())
        same = checkpoint.model == model
        update = {name: w - before[name] for name, w in weights.items()} if same else changes(weights, in_float32(root or {}))
        yield {name: float(tensor.norm().clamp(min=_FLOOR).log()) for name, tensor in update.items()}
        model, before = checkpoint.model, weights
