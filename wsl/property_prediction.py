"""The benchmark of property prediction: `python -m wsl.property_prediction zoo=digits runs=[<folder>,<folder>]`.

Every model is tested exactly once per split, as docs/protocol.md has it. `runs/property_prediction.sh` trains the runs; rows are
named after their models. The rows go to a JSON file, beside it tables (`.md`) and figures (`.svg`).

Runs in the folder `pretrained` have learned from other zoos and seen no model of this one, not even of its train folds: one such
run serves all folds. Their rows are called `<model>_pretrained`. They had more models to learn from, if none with labels.
"""

from pathlib import Path

from rich.console import Console

from wsl.probes.benchmark import benchmark
from wsl.probes.fold_runs import find_pretrained, find_runs
from wsl.probes.settings import BenchmarkConfig
from wsl.reporting.benchmark_tables import tables, write_figures
from zoo_gen import Zoo
from zoo_gen.config import command
from zoo_gen.files import write_json, write_text
from zoo_gen.zoo import zoo_folder


@command("property_prediction", BenchmarkConfig)
def main(config: BenchmarkConfig) -> None:
    """Writes the rows, the tables and the figures."""
    console, out = Console(), Path(config.out)
    zoo = Zoo.open(zoo_folder(config.zoo))
    pretrained = find_pretrained(Path(config.pretrained) if config.pretrained else None, zoo)
    rows = benchmark(zoo, find_runs([Path(folder) for folder in config.runs], zoo), config, console, pretrained=pretrained)
    write_json(out, rows)
    write_text(out.with_suffix(".md"), tables(rows, zoo=f"{zoo.name} seed={zoo.seed}"))
    write_figures(rows, out)
    console.print(f"wrote {out}", soft_wrap=True)


if __name__ == "__main__":
    main()
