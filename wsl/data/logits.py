"""Logits of the models of a zoo on the same images."""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from zoo_gen import Zoo
from zoo_gen.evaluate import logits

_MODELS_AT_ONCE = 64


def lack_to_run(zoo: Zoo) -> str:
    """Returns what a zoo lacks whose fine-tuned models are to be run on its images, for a message; nothing if it has all."""
    if not isinstance(zoo.config["config"].get("finetune_images"), dict):
        return f"the images of zoo {zoo.path} are not known"
    children = zoo.select(stage="finetune", final=True)
    one_each = children.select(path=children.frame.drop_duplicates("config_sha256")["path"].tolist())
    for checkpoint in one_each:
        if checkpoint.architecture.get("architecture") is None:
            return f"the architecture of model {checkpoint.model} of zoo {zoo.path} is not known"
    return ""


def run_models(checkpoints: Zoo, pixels: Float[Tensor, "I C H W"]) -> Float[np.ndarray, "N I classes"]:
    """Returns the logits of checkpoints on the same images, NaN where a model has fewer classes."""
    every = list(checkpoints)
    alike: dict[str, list[int]] = {}
    for row, checkpoint in enumerate(every):
        alike.setdefault(str(checkpoint.architecture), []).append(row)
    found: dict[int, np.ndarray] = {}
    for rows in alike.values():
        for start in range(0, len(rows), _MODELS_AT_ONCE):
            some = rows[start : start + _MODELS_AT_ONCE]
            out = logits(every[some[0]].architecture, [every[row].state_dict() for row in some], pixels)
            found.update(zip(some, out.numpy(), strict=True))
    table = np.full((len(every), len(pixels), max(out.shape[1] for out in found.values())), np.nan, dtype=np.float32)
    for row, out in found.items():
        table[row, :, : out.shape[1]] = out
    return table
