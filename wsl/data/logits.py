"""What the models of a zoo answer to the same images."""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from zoo_gen import Zoo
from zoo_gen.evaluate import logits

_MODELS_AT_ONCE = 64


def run_models(checkpoints: Zoo, pixels: Float[Tensor, "I C H W"]) -> Float[np.ndarray, "N I classes"]:
    """Returns the logits of checkpoints on the same images, NaN where a model has fewer classes."""
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
