"""Property prediction with few labels: `python -m wsl.few_labels zoo=digits runs=[<folder>,<folder>]`.

The benchmark of `wsl.property_prediction`, `by_model`, with 8, 32, 128 or all models labelled. The rows go to a JSON file, beside
it a table (`.md`) and a figure (`.svg`).
"""

from pathlib import Path

from rich.console import Console

from wsl.probes.fold_runs import find_pretrained, usable
from wsl.probes.label_efficiency import curves, runs_by_model
from wsl.probes.probe import probed_checkpoints
from wsl.probes.settings import LabelEfficiencyConfig
from wsl.reporting.label_curves import write_curves
from zoo_gen import Zoo
from zoo_gen.config import cards, command
from zoo_gen.zoo import zoo_folder


@command("few_labels", LabelEfficiencyConfig)
def main(config: LabelEfficiencyConfig) -> None:
    """Writes the rows, the table and the figure."""
    console = Console()
    zoo = Zoo.open(zoo_folder(config.zoo))
    runs = runs_by_model(config.runs, zoo)
    pretrained = find_pretrained(Path(config.pretrained) if config.pretrained else None, zoo)
    extractors = usable(cards("features", config.features), zoo, console)
    rows = curves(probed_checkpoints(zoo), runs, extractors, config, console, pretrained=pretrained)
    write_curves(rows, Path(config.out), title=f"Few labels on {zoo.name} seed={zoo.seed}", command="wsl.few_labels")
    console.print(f"wrote {config.out}", soft_wrap=True)


if __name__ == "__main__":
    main()
