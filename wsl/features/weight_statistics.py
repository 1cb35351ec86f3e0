"""Statistics of every tensor: mean, variance and quantiles, the baseline that is hard to beat.

Unterthiner, Keysers, Gelly, Bousquet, Tolstikhin: Predicting Neural Network Accuracy from Weights (arXiv 2002.11448).
They take the mean, the variance and the quantiles 0, 25, 50, 75 and 100 % per tensor of the weights; `reference: root`
takes the same of what fine-tuning has changed.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from wsl.layout import layout_of
from wsl.run import Run
from zoo_gen import Checkpoint, Zoo

_WEIGHTS_AT_ONCE = 8_000_000


class WeightStatistics:
    """The mean, variance and quantiles of each tensor, and whether a checkpoint has it.

    Args:
        reference: `none` for the weights themselves, `root` for their difference to the root's. A head is new in every
            model and has no counterpart there, so it is always taken as it is.
        quantiles: which quantiles, between 0 and 1.
    """

    def __init__(self, *, reference: Literal["none", "root"], quantiles: Sequence[float]) -> None:
        self.reference = reference
        self.quantiles = quantiles

    def extract(self, run: Run, checkpoints: Zoo) -> pd.DataFrame:
        """Returns the statistics of each checkpoint (N F), columns `<tensor>/<statistic>`; see `Features.extract`."""
        roots: dict[str, dict[str, Tensor]] = {}
        names = ["mean", "variance", *(f"q{100 * q:g}" for q in self.quantiles)]
        columns: dict[str, Float[np.ndarray, "N S"]] = {}
        stacks: dict[tuple, list[tuple[int, dict[str, Tensor]]]] = {}  # checkpoints with the same tensors

        def flush(stack: list[tuple[int, dict[str, Tensor]]]) -> None:
            rows = [row for row, _ in stack]
            for name in stack[0][1]:
                values = torch.stack([weights[name] for _, weights in stack]).flatten(1).numpy()
                unknown = np.full((len(checkpoints), len(names)), np.nan)
                columns.setdefault(name, unknown)[rows] = statistics(values, self.quantiles)
            stack.clear()

        for row, checkpoint in enumerate(checkpoints):
            weights = {name: tensor.float() for name, tensor in checkpoint.state_dict().items()}
            if self.reference == "root":
                weights = _difference(weights, _root_of(checkpoint, checkpoints, roots))
            stack = stacks.setdefault(tuple((name, tensor.shape) for name, tensor in weights.items()), [])
            stack.append((row, weights))
            if len(stack) * sum(tensor.numel() for tensor in weights.values()) > _WEIGHTS_AT_ONCE:
                flush(stack)
        for stack in stacks.values():
            if stack:
                flush(stack)

        tables = [pd.DataFrame(columns[name], columns=[f"{name}/{statistic}" for statistic in names]) for name in columns]
        present = pd.DataFrame({f"{name}/present": np.isfinite(columns[name][:, 0]).astype(float) for name in columns})
        return pd.concat([*tables, present], axis=1)


def statistics(values: Float[np.ndarray, "K W"], quantiles: Sequence[float]) -> Float[np.ndarray, "K S"]:
    """Returns mean, variance and quantiles (linear between neighbours) of each row; NaN if it is not finite."""
    finite = np.isfinite(values).all(axis=1, keepdims=True)
    ordered = np.sort(np.where(finite, values, 0), axis=1)  # ten times faster than np.quantile
    at = np.asarray(quantiles) * (values.shape[1] - 1)
    below, above = np.floor(at).astype(int), np.ceil(at).astype(int)
    inside = ordered[:, below] + (at - below) * (ordered[:, above].astype(np.float64) - ordered[:, below])
    moments = [ordered.mean(axis=1, dtype=np.float64), ordered.var(axis=1, dtype=np.float64)]
    return np.where(finite, np.column_stack([*moments, inside]), np.nan)


def _root_of(checkpoint: Checkpoint, zoo: Zoo, roots: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Returns the weights of a checkpoint's root, read once."""
    if checkpoint.root not in roots:
        roots[checkpoint.root] = {name: tensor.float() for name, tensor in zoo.root(checkpoint).state_dict().items()}
    return roots[checkpoint.root]


def _difference(weights: dict[str, Tensor], root: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights minus the root's where those have a counterpart; a head has none, whatever its shape."""
    new = {slot.name for slot in layout_of(weights).slots for part in slot.parts if part.role == "head"}
    shared = {name for name, tensor in root.items() if name not in new and name in weights and weights[name].shape == tensor.shape}
    return {name: tensor - root[name] if name in shared else tensor for name, tensor in weights.items()}
