"""The number of attention heads of a checkpoint: no tensor tells it, the `config.json` beside it does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from zoo_gen.errors import InputError
from zoo_gen.reader import read_json

CONFIG = "config.json"
KEYS = ("num_heads", "num_attention_heads", "n_head")
"""Names of the number of heads, in timm's `model_args` and in the configurations of transformers."""


def heads_beside(place: Path) -> int | None:
    """Returns the number of heads that a `config.json` states, of timm or transformers.

    It lies in the folder `place`, beside the file, or in the folder above, as for `epochs/0001.safetensors` of a zoo.
    None where there is no such file, where it is damaged, and where blocks differ in their number of heads.
    """
    config = config_beside(place)
    return None if config is None else _heads(config)


def config_beside(place: Path) -> dict[str, Any] | None:
    """Returns what the `config.json` of a checkpoint says, at the places of `heads_beside`; None where none can be read."""
    folders = [place] if place.is_dir() else [place.parent]
    for folder in (*folders, *([folders[0].parent] if folders[0].name == "epochs" else [])):
        if (folder / CONFIG).is_file():
            try:
                return read_json(folder / CONFIG, advice="fetch it again")
            except InputError:
                return None
    return None


def _heads(config: Mapping[str, Any]) -> int | None:
    of_timm = config.get("model_args")
    for values in (of_timm if isinstance(of_timm, dict) else {}, config):
        for key in KEYS:
            heads = values.get(key)
            if isinstance(heads, int) and not isinstance(heads, bool) and heads > 0:
                return heads
    name = config.get("architecture")
    return _heads_of_timm(name) if isinstance(name, str) and timm.is_model(name) else None


def _heads_of_timm(name: str) -> int | None:
    """Returns the number of heads of a timm model as its name alone makes it."""
    with torch.device("meta"):
        model: nn.Module = timm.create_model(name, pretrained=False)
    found = {heads for module in model.modules() if isinstance(heads := getattr(module, "num_heads", None), int)}
    return found.pop() if len(found) == 1 else None
