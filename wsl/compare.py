"""Compares two checkpoints: `python -m wsl.compare a b`. Are they one function in disguise, and if not, how far apart?

    python -m wsl.compare my_models/a.pth my_models/b.ckpt
    python -m wsl.compare a.safetensors b.safetensors heads=4 out=comparison.json
    python -m wsl.compare merged.safetensors my_adapter base=vit_base --json

Each is a file or folder of weights of any kind that `wsl.predict` reads, too. The output says what the two are equal up to (bits,
precision, symmetry), their distance as they are and modulo each kind of symmetry, by layer, and whether their heads are the same.
"""

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from wsl.analyses.comparison import compare
from wsl.analyses.models import Reading, open_model
from wsl.reporting.comparison_tables import comparison_table
from zoo_gen.command_line import WORD
from zoo_gen.config import command
from zoo_gen.files import as_json, write_json
from zoo_gen.remote import place_of


@dataclass
class CompareConfig:
    """The values of configs/compare.yaml."""

    a: str = field(metadata=WORD)
    b: str = field(metadata=WORD)
    heads: int | None
    base: str | None
    prefix: str | None
    leave_out: list[str]
    opaque: list[str]
    out: str | None
    json: bool


@command("compare", CompareConfig)
def main(config: CompareConfig) -> None:
    """Compares, and prints the tables, or JSON; writes JSON if `out` names a file."""
    reading = Reading(config.heads, config.base, config.prefix, config.leave_out, config.opaque)
    a, b = (open_model(place_of(place), reading) for place in (config.a, config.b))
    console = Console(stderr=config.json)
    found = {"a": config.a, "b": config.b} | (comparison := compare(a, b, console)).as_json()
    if config.json:
        print(as_json(found), end="")
    else:
        console.print(comparison_table(comparison, a, b), soft_wrap=True)
    if config.out is not None:
        write_json(Path(config.out), found)
        console.print(f"wrote {config.out}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    main()
