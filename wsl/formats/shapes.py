"""Names and shapes of a checkpoint or of a timm model, as tensors on the meta device: no weights."""

import difflib
import re
from collections.abc import Mapping, Sequence
from fnmatch import filter as matching
from pathlib import Path

import timm
import torch
from torch import Tensor

from wsl.formats.checkpoint import INDEX, TORCH_SUFFIXES, read_checkpoint
from zoo_gen.errors import InputError

HUB = ("hf-hub:", "hf_hub:")
"""Prefixes by which timm names models on the Hugging Face hub."""

SHARD = re.compile(r"-0*(\d+)-of-0*(\d+)\.\w+$")
"""End of the name of one file of many: its number, and how many there are."""


def shapes_of(source: str, *, base: str | None = None) -> dict[str, Tensor]:
    """Returns the tensors of a checkpoint or timm model on the meta device.

    Args:
        source: a file or folder of weights, as of `wsl.formats.checkpoint.read_checkpoint`, or else the name of a timm model.
        base: the checkpoint that an adapter is merged into.

    Raises:
        InputError: there is no such checkpoint or model, or it is damaged.
    """
    if timm.is_model(source) and not Path(source).exists():
        with torch.device("meta"):
            return timm.create_model(source, pretrained=False).state_dict()
    if source.startswith(HUB):
        raise InputError(f"{source} would be downloaded, which is not done here; download it first, then name its folder or file")
    is_path = "/" in source or source.endswith((".safetensors", *TORCH_SUFFIXES, INDEX)) or Path(source).exists()
    if not is_path:
        close = difflib.get_close_matches(source, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists the models"
        raise InputError(f"timm has no model {source!r}, and there is no such file or folder; {hint}")
    return {name: tensor.to("meta") for name, tensor in read_checkpoint(source, base=base).items()}


def without(tensors: Mapping[str, Tensor], patterns: Sequence[str]) -> dict[str, Tensor]:
    """Returns the tensors whose names fit none of the patterns. Raises `InputError` for a pattern that fits none."""
    left_out: set[str] = set()
    for pattern in patterns:
        if not (found := matching(tensors, pattern)):
            raise InputError(f"no tensor of the checkpoint is named {pattern!r}; remove it from --without")
        left_out.update(found)
    return {name: tensor for name, tensor in tensors.items() if name not in left_out}
