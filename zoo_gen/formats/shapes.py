"""Names and shapes of a checkpoint or of a timm model, as tensors on the meta device: no weights."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from torch import Tensor

from zoo_gen.errors import InputError
from zoo_gen.formats.checkpoint import INDEX, REFERENCE, SUFFIXES, read_checkpoint
from zoo_gen.formats.names import unwrapped, without
from zoo_gen.remote import copy_of, is_remote

HUB = ("hf-hub:", "hf_hub:")
"""Prefixes by which timm names models on the Hugging Face hub."""

SHARD = re.compile(r"-0*(\d+)-of-0*(\d+)\.\w+$")
"""End of the name of one file of many: its number, and how many there are."""


def shapes_of(
    source: str, *, base: str | None = None, prefix: str | None = None, leave_out: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Returns the tensors of a checkpoint or timm model on the meta device.

    Args:
        source: a file or folder of weights, as of `read_checkpoint`, or else the name of a timm model, with
            or without a tag (`vit_tiny_patch16_224.augreg_in21k`) and the `timm/` of the hub before it.
        base: the checkpoint that an adapter is merged into.
        prefix: of the names that are read.
        leave_out: patterns of names that are left out.

    Raises:
        InputError: there is no such checkpoint or model, or it is damaged.
    """
    if is_remote(source):
        source = str(copy_of(source, header=True))
    name = source.removeprefix("timm/")
    if timm.is_model(name.partition(".")[0]) and not Path(source).exists() and not name.endswith((*SUFFIXES, REFERENCE)):
        _check_tag(name)
        with torch.device("meta"):
            tensors = timm.create_model(name, pretrained=False).state_dict()
        return without(unwrapped(tensors, attributes=()), leave_out)  # without buffers, as a file is read
    if source.startswith(HUB):
        raise InputError(f"{source} would be downloaded, which is not done here; download it first, then name its folder or file")
    is_path = "/" in source or source.endswith((*SUFFIXES, INDEX, REFERENCE)) or Path(source).exists()
    if not is_path:
        close = difflib.get_close_matches(source, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists the models"
        raise InputError(f"timm has no model {source!r}, and there is no such file or folder; {hint}")
    weights = read_checkpoint(source, base=base, prefix=prefix, leave_out=leave_out)
    return {name: tensor.to("meta") for name, tensor in weights.items()}


def _check_tag(name: str) -> None:
    """Raises `InputError` for a tag of weights that a model of timm does not have."""
    model, _, tag = name.partition(".")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{model}.*")]
    if tag and tag not in tags:
        there = f"it has {', '.join(tags)}" if tags else "it has none; leave the tag out"
        raise InputError(f"the timm model {model} has no weights {tag!r}; {there}")
