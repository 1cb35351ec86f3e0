"""Weights of many checkpoints at once: stacks of one shape, as they are or as differences to the root."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from wsl.data.pairs import pairs_of, with_roots
from wsl.layout.lookup import layout_of
from zoo_gen import Checkpoint, Zoo
from zoo_gen.threads import in_threads

WEIGHTS_AT_ONCE = 8_000_000
Reference = Literal["none", "root"]
"""`none` for the weights themselves, `root` for their difference to the root's. A head is new in every model and has no
counterpart there, so it is always taken as it is. All of a model without a known root is NaN."""

Stack = tuple[list[int], dict[str, Tensor]]
"""The rows of some checkpoints, and their weights (K, *shape) by name."""


def stacks(checkpoints: Zoo, *, reference: Reference) -> Iterator[Stack]:
    """Yields all checkpoints, stacked with others of the same shapes; not in order, hence the rows."""

    def weights() -> Iterator[dict[str, Tensor]]:
        for checkpoint, root in with_roots(pairs_of(checkpoints) if reference == "root" else ((c, None) for c in checkpoints)):
            own = in_float32(checkpoint.state_dict())
            if root is not None:
                own |= changes(own, in_float32(root))
            elif reference == "root":
                own = {name: torch.full_like(tensor, torch.nan) for name, tensor in own.items()}
            yield own

    return stacked(weights())


def stacked(checkpoints: Iterable[dict[str, Tensor]]) -> Iterator[Stack]:
    """Yields tensors by name, stacked with those of other checkpoints of the same names and shapes."""
    waiting: dict[tuple, list[tuple[int, dict[str, Tensor]]]] = {}
    for row, weights in enumerate(checkpoints):
        alike = waiting.setdefault(tuple((name, tensor.shape) for name, tensor in weights.items()), [])
        alike.append((row, weights))
        if len(alike) * sum(tensor.numel() for tensor in weights.values()) > WEIGHTS_AT_ONCE:
            yield _stack(alike)
            alike.clear()
    yield from (_stack(alike) for alike in waiting.values() if alike)


def shape_key(checkpoint: Checkpoint) -> str:
    """Returns a text that is equal for checkpoints of one architecture: of its card, or of its tensors where no card names it."""
    card = checkpoint.architecture
    if card.get("architecture") is not None:
        return json.dumps(card, sort_keys=True)
    return json.dumps({name: list(tensor.shape) for name, tensor in checkpoint.state_dict().items()}, sort_keys=True)


def in_float32(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns weights in single precision."""
    return {name: tensor.float() for name, tensor in weights.items()}


def changes(weights: Mapping[str, Tensor], root: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns weights minus the root's, of those that have a counterpart there; a head has none, whatever its shape."""
    if not root:
        return {}
    new = layout_of(weights).head
    shared = {name for name, tensor in root.items() if name not in new and name in weights and weights[name].shape == tensor.shape}
    return {name: tensor - root[name] for name, tensor in weights.items() if name in shared}


def tensor_table(
    checkpoints: Zoo, *, reference: Reference, describe: Callable[[Tensor], Mapping[str, Float[np.ndarray, "K"]]]
) -> pd.DataFrame:
    """Returns what `describe` says of every tensor (K, *shape) of checkpoints (N C), in columns `<tensor>/<what>`.

    NaN where a checkpoint lacks a tensor; `<tensor>/present` tells whether it is there with finite weights.
    """

    def table(stack: Stack) -> pd.DataFrame:
        rows, weights = stack
        found = {f"{name}/{what}": column for name, tensor in weights.items() for what, column in describe(tensor).items()}
        return pd.DataFrame(found, index=rows)

    whole = pd.concat(in_threads(table, stacks(checkpoints, reference=reference))).sort_index()
    first = {str(column).rpartition("/")[0]: column for column in reversed(whole.columns)}
    present = {f"{name}/present": whole[first[name]].notna().astype(float) for name in reversed(first)}
    return pd.concat([whole, pd.DataFrame(present)], axis=1)


def _stack(alike: list[tuple[int, dict[str, Tensor]]]) -> Stack:
    return [row for row, _ in alike], {name: torch.stack([weights[name] for _, weights in alike]) for name in alike[0][1]}
