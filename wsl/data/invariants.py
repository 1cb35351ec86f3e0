"""Numbers of weights that no order of neurons or heads changes: norms, spectra, moments and quantiles, tensor by tensor.

A root and its children have one order in common, as training keeps it. An order that changes in both changes no number of the
change since the root. One that changes in a copy of the child alone changes these numbers: they are properties of a training, and
not of the function that it ended with. `wsl.align` brings such a copy into the order of its root.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from wsl.data.cache import cached
from wsl.data.pairs import Pairs, weights_with_roots
from wsl.data.stacks import Stack, changes, in_float32, stacked
from zoo_gen import Zoo
from zoo_gen.threads import in_threads

CHANGE = "change of "
"""How the columns begin that describe the change of a tensor since the root."""

DIRECTIONS = ("relative", "cosine", "along", "turn")
"""How the columns end that say where a tensor has moved to, as its root sees it."""

UPDATES = ("l1", "l2", "max", *DIRECTIONS)
"""How the columns end that say how far a tensor has moved, and where to."""

_FLOOR = 1e-8  # what float32 leaves of a zero
_VALUES, _QUANTILES = 32, (0.0, 0.25, 0.5, 0.75, 1.0)
_NORMS, _STATISTICS = ("l1", "l2", "max"), ("mean", "variance", "q0", "q25", "q50", "q75", "q100")


def invariants(checkpoints: Pairs) -> pd.DataFrame:
    """Describes every tensor of checkpoints, and what became of it since the root.

    Args:
        checkpoints: the weights of each, and of the root that it descends from; None where that is not known.

    Returns:
        One row per checkpoint (N C). Columns are `<tensor>/<what>` of the weights and `change of <tensor>/<what>` of what differs
        from the root, which heads do not have: norms and singular values (logarithms), mean, variance and quantiles; of changes
        also those of `direction`; and `<tensor>/present`, 1 or 0. NaN where a checkpoint lacks a tensor or a root; where one is not
        finite, all of its row is.

    Raises:
        InputError: a checkpoint is of no known architecture.
    """
    whole = pd.concat(in_threads(_described, stacked(map(_with_changes, checkpoints)))).sort_index()
    known, flags = whole.notna().any(axis=1), [column for column in whole if str(column).endswith("/present")]
    whole.loc[known, flags] = whole.loc[known, flags].fillna(0.0)
    return whole


def _described(stack: Stack) -> pd.DataFrame:
    rows, tensors = stack
    found: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        spectra = spectrum(tensor, _VALUES)
        values = np.column_stack([spectra, statistics(tensor.flatten(1).numpy(), _QUANTILES)])
        singular = [f"s{i}" for i in range(spectra.shape[1] - len(_NORMS))]
        found |= {f"{name}/{what}": column for what, column in zip((*_NORMS, *singular, *_STATISTICS), values.T, strict=True)}
        if name.startswith(CHANGE):
            found |= {f"{name}/{what}": column for what, column in direction(tensor, tensors[name.removeprefix(CHANGE)]).items()}
        else:
            found[f"{name}/present"] = np.ones(len(values))
    table = pd.DataFrame(found, index=rows)
    return table.where(table.notna().all(axis=1), np.nan)


def invariants_of(checkpoints: Zoo) -> pd.DataFrame:
    """Describes the checkpoints of a zoo, or finds their description in the cache; see `invariants`."""
    return cached(invariants, checkpoints, lambda: invariants(weights_with_roots(checkpoints)))


def columns_by_kind(columns: Sequence[str]) -> dict[str, list[int]]:
    """Sorts columns by what they say of a checkpoint.

    Returns:
        The numbers of the columns: `everything`; `updates`, how far tensors moved and where to; `directions`, where tensors moved
        to, and all about tensors that the root does not have in this shape: heads are new in every model.
    """
    tensors = [column.rpartition("/")[0] for column in columns]
    changed = {tensor.removeprefix(CHANGE) for tensor in tensors if tensor.startswith(CHANGE)}
    found: dict[str, list[int]] = {"everything": list(range(len(columns))), "updates": [], "directions": []}
    for number, (tensor, column) in enumerate(zip(tensors, columns, strict=True)):
        of_change, what = tensor.startswith(CHANGE), column.rpartition("/")[2]
        if of_change and what in UPDATES:
            found["updates"].append(number)
        if what in DIRECTIONS if of_change else tensor not in changed:
            found["directions"].append(number)
    return found


def _with_changes(pair: tuple[Mapping[str, Tensor], Mapping[str, Tensor] | None]) -> dict[str, Tensor]:
    """The tensors of a checkpoint, and their changes by names of their own."""
    weights = in_float32(pair[0])
    return weights | {f"{CHANGE}{name}": tensor for name, tensor in changes(weights, in_float32(pair[1] or {})).items()}


def direction(change: Float[Tensor, "K *shape"], weights: Float[Tensor, "K *shape"]) -> dict[str, Float[np.ndarray, "K"]]:
    """Where a tensor went, as its root sees it; 0 or as good as that for a change of nothing or since nothing.

    Returns:
        `relative`: logarithm of the norm of the change over the root's. `cosine`: of the change with the root's tensor.
        `along`: how much the change adds to the root's tensor, as a share of it (weight decay alone: below 0, the same for all).
        `turn`: logarithm of 1 minus the cosine of the weights with the root's.
    """
    moved, now = change.double().flatten(1), weights.double().flatten(1)
    root = now - moved
    far, size, length = (vectors.norm(dim=1) + _FLOOR for vectors in (moved, root, now))
    along = (moved * root).sum(1) / size
    found = {
        "relative": (far / size).log(),
        "cosine": along / far,
        "along": along / size,
        "turn": (1 - (now * root).sum(1) / (size * length)).clamp(min=_FLOOR).log(),
    }
    return {what: values.numpy() for what, values in found.items()}


def spectrum(stack: Tensor, values: int) -> Float[np.ndarray, "K S"]:
    """Returns log norms (mean absolute, root mean square, largest) and log singular values; NaN for what is not finite."""
    flat = stack.double().flatten(1)
    finite = flat.isfinite().all(1, keepdim=True)
    flat = torch.where(finite, flat, 0)
    found = [flat.abs().mean(1, keepdim=True), flat.square().mean(1, keepdim=True).sqrt(), flat.abs().amax(1, keepdim=True)]
    shape = [size for size in stack.shape[1:] if size > 1]
    if len(shape) > 1:
        matrix = rearrange(flat, "k (a b) -> k a b", a=shape[0])
        small = matrix @ matrix.mT if matrix.shape[1] <= matrix.shape[2] else matrix.mT @ matrix
        singular = torch.linalg.eigvalsh(small).clamp(min=0).sqrt().flip(1)  # three times as fast as svdvals
        at = torch.linspace(0, singular.shape[1] - 1, min(values, singular.shape[1])).round().long()
        found.append(singular[:, at])
    return torch.where(finite, torch.cat(found, 1).clamp(min=_FLOOR).log(), torch.nan).numpy()


def statistics(values: Float[np.ndarray, "K W"], quantiles: Sequence[float]) -> Float[np.ndarray, "K S"]:
    """Returns mean, variance and quantiles (linear between neighbours) of each row; NaN if it is not finite."""
    finite = np.isfinite(values).all(axis=1, keepdims=True)
    ordered = np.sort(np.where(finite, values, 0), axis=1)  # ten times faster than np.quantile
    at = np.asarray(quantiles) * (values.shape[1] - 1)
    below, above = np.floor(at).astype(int), np.ceil(at).astype(int)
    inside = ordered[:, below] + (at - below) * (ordered[:, above].astype(np.float64) - ordered[:, below])
    moments = [ordered.mean(axis=1, dtype=np.float64), ordered.var(axis=1, dtype=np.float64)]
    return np.where(finite, np.column_stack([*moments, inside]), np.nan)
