"""Finds duplicates among checkpoints: `python -m wsl.duplicates folder`, however deep they lie in it.

    python -m wsl.duplicates my_models
    python -m wsl.duplicates my_models heads=4 near=0.1 out=duplicates.json
    python -m wsl.duplicates my_models base=my_models/vit_base --json

Groups are equal to the bit, up to precision (float16 and bfloat16 copies, merged adapters), or up to symmetry (permuted neurons,
folded norms and all else that keeps the function). Near models are listed apart: they are none of these.
"""

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from wsl.analyses.duplicates import duplicates
from wsl.analyses.models import Reading
from wsl.reporting.comparison_tables import duplicates_table
from zoo_gen import InputError
from zoo_gen.command_line import WORD
from zoo_gen.config import command
from zoo_gen.files import as_json, write_json
from zoo_gen.formats.folder import checkpoints_below
from zoo_gen.wording import counted

NAMED = 10  # files that cannot be read, in a message


@dataclass
class DuplicatesConfig:
    """The values of configs/duplicates.yaml."""

    folder: str = field(metadata=WORD)
    heads: int | None
    near: float
    base: str | None
    prefix: str | None
    leave_out: list[str]
    opaque: list[str]
    out: str | None
    json: bool


@command("duplicates", DuplicatesConfig)
def main(config: DuplicatesConfig) -> None:
    """Reads the folder, and prints groups and near pairs, or JSON; writes JSON if `out` names a file."""
    if not config.near >= 0:
        raise InputError(f"near is a distance over a norm, 0 or more, not {config.near:g}")
    reading = Reading(config.heads, config.base, config.prefix, config.leave_out, config.opaque)
    console = Console(stderr=config.json)
    found = duplicates(checkpoints_below(Path(config.folder)), reading, near=config.near, console=console)
    if config.json:
        print(as_json(found.as_json()), end="")
    else:
        console.print(duplicates_table(found, Path(config.folder)), soft_wrap=True)
    if config.out is not None:
        write_json(Path(config.out), found.as_json())
        console.print(f"wrote {config.out}", soft_wrap=True, markup=False)
    if found.unread:
        some = [f"{place} ({why})" for place, why in found.unread.items()]
        more = f"; and {len(some) - NAMED} more" if len(some) > NAMED else ""
        raise InputError(
            f"{len(some)} of {counted(found.count + len(some), 'checkpoint')} could not be read: {'; '.join(some[:NAMED])}{more}"
        )


if __name__ == "__main__":
    main()
