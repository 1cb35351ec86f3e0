"""The coverage report: what a tokenizer makes of a checkpoint, from names and shapes alone.

    python -m wsl.tokenize vit_small_patch16_224
    python -m wsl.tokenize model.safetensors --tokenizer rows
    python -m wsl.tokenize weights.pth --without "optimizer.*" --opaque "adapter.*"
    python -m wsl.tokenize folder/of/a/lora/adapter --base folder/of/its/base

A tokenizer is named by its card in `configs/tokenizer`; its reference does not matter to the report. What can be read is said in
`wsl.formats.checkpoint`.
"""

import argparse
import difflib
import re
from collections.abc import Mapping, Sequence
from fnmatch import filter as matching
from pathlib import Path

import timm
import torch
from omegaconf import OmegaConf
from rich.console import Console
from torch import Tensor

from wsl.formats.checkpoint import INDEX, TORCH_SUFFIXES, read_checkpoint
from wsl.layout import layout_of
from wsl.reporting.coverage_table import coverage_table
from wsl.tokenizers.codec import Codec
from wsl.tokenizers.coverage import coverage
from wsl.tokenizers.plan import Plan
from zoo_gen.config import CONFIGS, instantiate, one_clear_error
from zoo_gen.errors import InputError, printable
from zoo_gen.reader import shortened

HUB = ("hf-hub:", "hf_hub:")
"""How timm's names of models on the Hugging Face hub begin."""

SHARD = re.compile(r"-0*(\d+)-of-0*(\d+)\.\w+$")
"""What the name of one file of many ends in."""


def shapes_of(source: str, *, base: str | None = None) -> dict[str, Tensor]:
    """Returns the tensors of a checkpoint or timm model on the meta device: names and shapes, no weights.

    Args:
        source: a file or folder of weights, as of `wsl.formats.checkpoint.read_checkpoint`, or else the name of a timm model.
        base: what an adapter is merged into.

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
    gone: set[str] = set()
    for pattern in patterns:
        if not (hit := matching(tensors, pattern)):
            raise InputError(f"no tensor of the checkpoint is named {pattern!r}; remove it from --without")
        gone.update(hit)
    return {name: tensor for name, tensor in tensors.items() if name not in gone}


def _plan(tokenizer: Codec, tensors: Mapping[str, Tensor], opaque: Sequence[str]) -> Plan:
    """Returns the plan of a checkpoint, with tensors that no layout knows if they are named."""
    if not opaque:
        return tokenizer.plan(tensors)
    layout = layout_of(tensors, opaque=opaque)
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise InputError(f"tensor {shortened(name)} is {tensor.dtype}, no weight; leave it out: --without {shortened(name)}")
    return tokenizer.lay(layout, tuple(tensors[slot.name].dtype for slot in layout.slots), (False,) * len(layout.slots))


def main(arguments: list[str] | None = None) -> None:
    """Prints the report of the checkpoint named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m wsl.tokenize", description="Print what a tokenizer makes of a checkpoint.")
    parser.add_argument("source", help="file or folder of weights (safetensors, torch, sharded, LoRA), or name of a timm model")
    files = sorted((CONFIGS / "tokenizer").glob("*.yaml"))
    cards = {path.stem: path for path in files if "reference" in OmegaConf.load(path)}  # the others lay out as one of these
    parser.add_argument("--tokenizer", choices=cards, default="residual", help="default: residual")
    parser.add_argument("--base", help="checkpoint that the adapter in SOURCE is merged into")
    parser.add_argument("--opaque", action="append", default=[], metavar="PATTERN", help="cover tensors that no layout knows")
    parser.add_argument("--without", action="append", default=[], metavar="PATTERN", help="leave tensors out that are no weights")
    options = parser.parse_args(arguments)
    with one_clear_error():
        tokenizer = instantiate(OmegaConf.merge(OmegaConf.load(cards[options.tokenizer]), {"reference": "none"}))
        tensors = without(shapes_of(options.source, base=options.base), options.without)
        plan = _plan(tokenizer, tensors, options.opaque)
        frame = coverage(plan)
        weights = sum(tensor.numel() for tensor in tensors.values())
        console = Console()
        console.print(
            f"{printable(options.source)}: {plan.layout.family}, {frame['weights']['total'] / weights:.2%} of {weights:,} weights "
            f"in {plan.n_tokens:,} tokens of {plan.width}",
            soft_wrap=True,
            markup=False,
        )
        console.print(coverage_table(frame))
        if (shard := SHARD.search(options.source)) and int(shard[2]) > 1:
            advice = "name their folder or index for the whole model"
            console.print(f"This is file {shard[1]} of {shard[2]} alone; {advice}.", soft_wrap=True, markup=False)


if __name__ == "__main__":
    main()
