"""The benchmark of compression: accuracy and diversity of models after they are encoded and decoded.

    python -m wsl.compression checkpoints/runs/compression/* --out docs/results/compression.json

`wsl.analyses.compression` defines the measures. `runs/compression.sh` trains the runs.
"""

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from wsl.analyses.compression import rows_of
from wsl.reporting.benchmark_tables import compression_table
from wsl.training.latent_optimization import LatentRefinement
from zoo_gen.errors import InputError, one_clear_error, refuse_bytes
from zoo_gen.files import write_json, write_text

REFINEMENT = LatentRefinement(steps=40, learning_rate=0.02, images=64, batch_size=16)
"""Of the rows with refined latents: chosen on fold 0 of digits, seed 0, at compression ratio 16."""


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line (`zoo_gen.startup` calls it before the imports)."""
    parser = argparse.ArgumentParser(prog="python -m wsl.compression", description="Measure what decoding retains.")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs; others are left out")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the rows; a table (.md) comes beside it")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Writes the rows of the runs named on the command line."""
    options = parser().parse_args(arguments)
    with one_clear_error():
        refuse_bytes(*options.runs, options.out)
        torch.set_num_threads(1)
        finished = [folder for folder in options.runs if (folder / "model.safetensors").is_file()]
        if not finished:
            raise InputError("no finished run among the folders; train some with runs/compression.sh")
        console, rows = Console(), []
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TimeElapsedColumn()
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            bar = progress.add_task("", total=3 * len(finished))
            for number, folder in enumerate(finished):
                progress.update(bar, description=folder.name, completed=3 * number)
                rows += rows_of(folder, refinement=REFINEMENT, advance=lambda: progress.advance(bar))
        write_json(options.out, rows)
        write_text(options.out.with_suffix(".md"), compression_table(rows))
        console.print(compression_table(rows), soft_wrap=True, markup=False)


if __name__ == "__main__":
    main()
