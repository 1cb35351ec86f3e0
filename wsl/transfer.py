"""Transfer between zoos: `python -m wsl.transfer run_zoo=digits runs=[<folder>,<folder>] zoo=<another zoo>`.

A representation that was trained on one zoo is probed on another, of other widths, depths or images: without its labels, with a
few, and with all (`wsl.probes.transfer`). The rows go to a JSON file, beside it a table (`.md`) and a figure (`.svg`).
"""

from pathlib import Path

from rich.console import Console

from wsl.features.embedding import Rescaled
from wsl.probes.fold_runs import find_pretrained
from wsl.probes.label_efficiency import curves, runs_by_model
from wsl.probes.probe import probed_checkpoints
from wsl.probes.settings import TransferConfig
from wsl.probes.transfer import transferred, without_labels
from wsl.reporting.label_curves import write_curves
from zoo_gen import Zoo
from zoo_gen.config import cards, command
from zoo_gen.zoo import zoo_folder


@command("transfer", TransferConfig)
def main(config: TransferConfig) -> None:
    """Writes the rows, the table and the figure."""
    console = Console()
    first, other = (Zoo.open(zoo_folder(path)) for path in (config.run_zoo, config.zoo))
    here = runs_by_model(config.runs, first)
    there = transferred(here, other)
    pretrained = find_pretrained(Path(config.pretrained) if config.pretrained else None, other)
    extractors = {**cards("features", config.features), "rescaled": Rescaled()}
    rows = without_labels(probed_checkpoints(first), probed_checkpoints(other), here, there, config, console)
    rows += curves(probed_checkpoints(other), there, extractors, config, console, pretrained=pretrained)
    names = [f"{zoo.path.name} seed={zoo.seed}" for zoo in (first, other)]
    write_curves(rows, Path(config.out), title=f"Transfer from {names[0]} to {names[1]}", command="wsl.transfer")
    console.print(f"wrote {config.out}", soft_wrap=True)


if __name__ == "__main__":
    main()
