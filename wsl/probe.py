"""Reads properties of models off their weights: `python -m wsl.probe run=demo`.

Targets are those of `configs/probe` that the zoo has values of, and the columns of its own. Each is predicted from some kinds of
features of `configs/features`, on all checkpoints and on final ones alone. The split is that of the run: its train models fit the
probes, its val models choose the penalties, its test models are predicted. `beside=` names runs of other models on the same split,
whose embeddings are probed beside. The rows go to `probe.json` in the run's folder, and as a table to the terminal. This is one
fold: `wsl.property_prediction` pools all of them.
"""

from dataclasses import dataclass

from rich.console import Console

from wsl.probes.benchmark import evaluate_runs
from wsl.probes.fold_runs import usable
from wsl.probes.settings import Settings
from wsl.probes.targets import targets_of
from wsl.reporting.probe_table import probe_table
from wsl.run import Run
from zoo_gen.config import cards, command
from zoo_gen.files import as_json, saved


@dataclass
class ProbeConfig(Settings):
    """The values of configs/probe.yaml."""

    run: str
    beside: list[str]
    zoo: str | None


@command("probe", ProbeConfig)
def main(config: ProbeConfig) -> None:
    """Probes the runs, writes probe.json and prints the table."""
    console = Console()
    runs = [Run.open(path, zoo=config.zoo) for path in (config.run, *config.beside)]
    zoo = runs[0].zoo
    extractors = usable(cards("features", config.features), zoo, console)
    rows = evaluate_runs(runs, targets_of(zoo, config.targets), extractors, config, console)
    console.print(probe_table(rows))
    if saved(runs[0].path / "probe.json", as_json(rows)):
        console.print(f"wrote {runs[0].path / 'probe.json'}", soft_wrap=True)


if __name__ == "__main__":
    main()
