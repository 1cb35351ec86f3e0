"""Aligns a checkpoint to another: `python -m wsl.align a to=b out=c`. The function stays, the weights come near to the other's.

    python -m wsl.align my_models/a.pth to=my_models/b.ckpt out=a_aligned.safetensors
    python -m wsl.align a.safetensors to=b.safetensors out=c.safetensors moves=[mlp,head] heads=4

The aligned checkpoint is written as safetensors, by the names and in the number formats that it came with. It may be averaged with
the other one, or compared to it weight by weight. A file that exists is not written over, unless overwrite=true.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console

from wsl.analyses.align_models import align_models
from wsl.analyses.models import Reading, open_model
from wsl.symmetry.group import MOVES, check_moves
from zoo_gen import InputError
from zoo_gen.command_line import WORD
from zoo_gen.config import command
from zoo_gen.files import write_weights
from zoo_gen.remote import place_of

DTYPES = {"own": None, "float32": torch.float32, "float64": torch.float64}


@dataclass
class AlignConfig:
    """The values of configs/align.yaml."""

    a: str = field(metadata=WORD)
    to: str
    out: str
    overwrite: bool
    moves: list[str] | None
    dtype: str
    heads: int | None
    base: str | None
    prefix: str | None
    leave_out: list[str]
    opaque: list[str]


@command("align", AlignConfig)
def main(config: AlignConfig) -> None:
    """Aligns, writes the checkpoint, and prints the distances before and after."""
    out, console = Path(config.out), Console()
    if out.suffix != ".safetensors":
        raise InputError(f"out must end in .safetensors, not {config.out}")
    if (out.exists() or out.is_symlink()) and not config.overwrite:
        raise InputError(f"{out} exists; choose another name, or overwrite=true")
    if config.dtype not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, not {config.dtype}")
    moves = MOVES if config.moves is None else config.moves
    check_moves(moves)
    reading = Reading(config.heads, config.base, config.prefix, config.leave_out, config.opaque)
    a, b = (open_model(place_of(place), reading) for place in (config.a, config.to))
    found = align_models(a, b, moves, dtype=DTYPES[config.dtype])
    write_weights(out, found.weights)
    for note in dict.fromkeys([*a.notes, *b.notes]):
        console.print(note, soft_wrap=True, markup=False)
    distances = f"{found.after:.3g} of their norm apart, {found.before:.3g} before"
    console.print(f"wrote {out}: the function of {config.a}; it and {config.to} are {distances}", soft_wrap=True, markup=False)
    if rounded := sorted({str(one.dtype)[6:] for one in found.weights.values() if one.dtype in (torch.float16, torch.bfloat16)}):
        console.print(f"The weights are rounded to {rounded[0]} again; dtype=float32 keeps the function.", soft_wrap=True)
    if found.after > found.before:
        console.print(
            "The scales of norms and layers are now those of the other one, which makes the two no nearer as they are; "
            "moves=[resid,mlp,head,qk,vo] keeps them",
            soft_wrap=True,
        )


if __name__ == "__main__":
    main()
