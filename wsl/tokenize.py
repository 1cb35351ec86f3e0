"""The coverage report: what a tokenizer makes of a checkpoint, from names and shapes alone.

    python -m wsl.tokenize vit_small_patch16_224
    python -m wsl.tokenize model.safetensors --tokenizer rows

A tokenizer is named by its card in `configs/tokenizer`; its reference does not matter to the report.
"""

import argparse
import difflib
from pathlib import Path

import pandas as pd
import timm
import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from safetensors import SafetensorError, safe_open
from torch import Tensor

from wsl.tokenizers.coverage import coverage
from zoo_gen.config import CONFIGS, instantiate, one_clear_error
from zoo_gen.errors import InputError


def shapes_of(source: str) -> dict[str, Tensor]:
    """Returns the tensors of a timm model or safetensors file on the meta device: names and shapes, no weights.

    Raises:
        InputError: there is no such model or file, or the file is damaged.
    """
    if source.endswith(".safetensors"):
        try:
            with safe_open(source, framework="pt", device="cpu") as file:
                return {name: file.get_tensor(name).to("meta") for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError as error:
            raise InputError(f"no file at {Path(source).absolute()}; name a safetensors file or a timm model") from error
        except SafetensorError as error:
            raise InputError(f"{source} is not a readable safetensors file ({error}); write or fetch it again") from error
    if not timm.is_model(source):
        close = difflib.get_close_matches(source, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists the models"
        raise InputError(f"timm has no model {source!r}, and it is not the name of a .safetensors file; {hint}")
    with torch.device("meta"):
        return timm.create_model(source, pretrained=False).state_dict()


def table_of(frame: pd.DataFrame) -> Table:
    """Returns a coverage frame as a table for the terminal."""
    table = Table("role")
    for column in frame.columns:
        table.add_column(str(column), justify="right")
    for role, (weights, tokens, padding) in zip(frame.index, frame.to_numpy(), strict=True):
        table.add_row(str(role), f"{weights:,.0f}", f"{tokens:,.0f}", f"{padding:.1%}")
    return table


def main(arguments: list[str] | None = None) -> None:
    """Prints the report of the checkpoint named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m wsl.tokenize", description="Print what a tokenizer makes of a checkpoint.")
    parser.add_argument("source", help="name of a timm model, or a .safetensors file")
    cards = {path.stem: path for path in sorted((CONFIGS / "tokenizer").glob("*.yaml"))}
    parser.add_argument("--tokenizer", choices=cards, default="residual", help="default: residual")
    options = parser.parse_args(arguments)
    with one_clear_error():
        tokenizer = instantiate(OmegaConf.merge(OmegaConf.load(cards[options.tokenizer]), {"reference": "none"}))
        tensors = shapes_of(options.source)
        plan = tokenizer.plan(tensors)
        frame = coverage(plan)
        weights = sum(tensor.numel() for tensor in tensors.values())
        console = Console()
        console.print(
            f"{options.source}: {frame['weights']['total'] / weights:.2%} of {weights:,} weights "
            f"in {plan.n_tokens:,} tokens of {plan.width}",
            soft_wrap=True,
        )
        console.print(table_of(frame))


if __name__ == "__main__":
    main()
