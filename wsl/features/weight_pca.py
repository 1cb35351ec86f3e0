"""Principal components of the weights, fitted on train models.

All tensors of a zoo side by side make one vector; where a checkpoint lacks a tensor (of another head), or has it in another
shape, it has zeros. The inner products of all checkpoints with an even selection of them (every few epochs of every model) are
taken once; the components of a fold are fitted on those of the selection that belong to its train models.
"""

from collections.abc import Set

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wsl.data.cache import cached
from wsl.data.stacks import Reference, stacks
from wsl.features.features import Features, lack_of_roots, train_models
from wsl.run import Run
from zoo_gen import Zoo


class WeightPCA(Features):
    """Scores on the leading principal components of the train models' weights.

    Args:
        reference: `none` for the weights themselves, `root` for their difference to the root's (heads as they are).
        components: how many.
        anchors: components are fitted on at most about so many checkpoints, thinned evenly.
    """

    def __init__(self, *, reference: Reference, components: int, anchors: int) -> None:
        self.reference: Reference = reference
        self.components, self.anchors = components, anchors

    def seen(self, run: Run) -> Set[str]:
        """Returns the train models."""
        return train_models(run)

    def lack(self, zoo: Zoo) -> str:
        """Returns what a zoo lacks; see `Features.lack`."""
        return lack_of_roots(zoo) if self.reference == "root" else ""

    def extract(self, run: Run, checkpoints: Zoo) -> pd.DataFrame:
        """Returns the scores of each checkpoint (N F); see `Features.extract`."""
        products = cached(self, checkpoints, lambda: self._products(checkpoints)).to_numpy()
        train = np.isin(checkpoints.frame["model"].to_numpy()[self._selected(checkpoints)], list(train_models(run)))
        usable = train & np.isfinite(products[self._selected(checkpoints)]).all(axis=1)
        scores = project(products, self._selected(checkpoints)[usable], usable, self.components)
        return pd.DataFrame(scores, columns=[f"component/{i}" for i in range(scores.shape[1])])

    def _selected(self, checkpoints: Zoo) -> Int[np.ndarray, "A"]:
        """Returns the rows that components may be fitted on: every so many epochs of a model, counted back from its last."""
        frame = checkpoints.frame
        stride = -(-len(frame) // self.anchors)
        before_end = frame.groupby("model")["epoch"].transform("max") - frame["epoch"]
        return np.flatnonzero(before_end.to_numpy() % stride == 0)

    def _products(self, checkpoints: Zoo) -> pd.DataFrame:
        """Returns the inner products of all checkpoints with the selected ones (N A); a weight that is not finite makes 0."""
        selected = self._selected(checkpoints)
        place = {row: column for column, row in enumerate(selected)}
        rows_of: dict[tuple, list[int]] = {}
        parts: dict[tuple, list[Tensor]] = {}
        for rows, weights in stacks(checkpoints, reference=self.reference):
            chosen = [i for i, row in enumerate(rows) if row in place]
            for name, tensor in weights.items():
                key = (name, tuple(tensor.shape[1:]))
                rows_of.setdefault(key, []).extend(place[rows[i]] for i in chosen)
                parts.setdefault(key, []).append(_finite(tensor)[chosen])
        products = np.zeros((len(checkpoints), len(selected)))
        anchors = {key: torch.cat(part) for key, part in parts.items()}
        for rows, weights in stacks(checkpoints, reference=self.reference):
            for name, tensor in weights.items():
                key = (name, tuple(tensor.shape[1:]))
                products[np.ix_(rows, rows_of[key])] += (_finite(tensor) @ anchors[key].T).numpy()
        return pd.DataFrame(products, columns=[f"anchor/{i}" for i in range(len(selected))])


def project(
    products: Float[np.ndarray, "N A"], rows: Int[np.ndarray, "T"], columns: Int[np.ndarray, "A"], components: int
) -> Float[np.ndarray, "N C"]:
    """Returns scores on principal components from inner products alone.

    Args:
        products: of all checkpoints with the selected ones.
        rows: of the selected train checkpoints among all.
        columns: which of the selected are train checkpoints (a mask).
        components: at most so many; directions without variance are left out.
    """
    kernel = products[:, columns]
    among = kernel[rows]
    centred = kernel - kernel.mean(axis=1, keepdims=True) - among.mean(axis=0) + among.mean()
    variances, vectors = np.linalg.eigh(centred[rows])
    chosen = np.argsort(variances)[::-1][:components]
    chosen = chosen[variances[chosen] > 1e-10 * variances.max()]
    return centred @ vectors[:, chosen] / np.sqrt(variances[chosen])


def _finite(tensor: Tensor) -> Float[Tensor, "K W"]:
    flat = tensor.flatten(1).double()
    return torch.where(flat.isfinite().all(1, keepdim=True), flat, 0)
